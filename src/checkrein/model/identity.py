"""Who is calling: a key or a token, whose it is, and what it lets them do. Only the SHA-256 of a key is ever stored."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from checkrein.model.request import Subject

#: how tokens may be signed: by a key pair, never by a shared secret, never not at all
TOKEN_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")


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


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who is calling, once that is proved: `id` names the key, or the issuer and the person of a token."""

    id: str
    owner: str
    roles: tuple[str, ...] = ()
    agent: str = ""
    permissions: tuple[Permission, ...] = ()

    def subject(self) -> Subject:
        return Subject("user", self.owner, {"roles": list(self.roles)})


class ApiKey(Caller, frozen=True, kw_only=True):
    """A stored key. `id` is public (`key_...`); `digest` is the SHA-256 (hex) of the secret.

    After a rotation the secret of before opens it too, until `previous_until_us`.
    """

    name: str
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


def key_digest(secret: str) -> str:
    """SHA-256 (hex) of a key's text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
