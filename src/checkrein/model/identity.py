"""Who is calling: a key, whose it is, and what it lets them do. Only the SHA-256 of a key is ever stored."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from checkrein.model.request import Subject


class Permission(enum.StrEnum):
    """What a key may be used for."""

    #: send prompts and tool calls through the gateway, as the key's owner
    CALL = "call"
    #: ask for decisions and name the subject (what an enforcement point does)
    DECIDE = "decide"
    #: read the audit trail
    AUDIT = "audit"
    #: kill and revive
    OPERATE = "operate"
    #: vote on approvals, as the key's owner
    APPROVE = "approve"
    #: read the figures at `/metrics`, and nothing else
    METRICS = "metrics"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key. `id` is public (`key_...`); `digest` is the SHA-256 (hex) of the secret.

    After a rotation the secret of before opens it too, until `previous_until_us`.
    """

    id: str
    name: str
    owner: str
    roles: tuple[str, ...] = ()
    agent: str = ""
    permissions: tuple[Permission, ...] = ()
    digest: str
    created_us: int
    expires_us: int = 0
    revoked_us: int = 0
    rotated_us: int = 0
    previous_digest: str = ""
    previous_until_us: int = 0

    def live(self, now_us: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return not self.revoked_us and not (self.expires_us and now_us >= self.expires_us)

    def opened_by(self, digest: str, now_us: int) -> bool:
        """Whether the secret of this digest opens the key now."""
        previous = digest == self.previous_digest and now_us < self.previous_until_us
        return self.live(now_us) and (digest == self.digest or previous)

    def subject(self) -> Subject:
        return Subject("user", self.owner, {"roles": list(self.roles)})


def key_digest(secret: str) -> str:
    """SHA-256 (hex) of a key's text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
