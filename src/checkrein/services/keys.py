"""API keys: made, found by the digest of their secret, rotated, revoked. A secret is shown once and never stored.

When a key was last used is kept to the hour: one small write an hour and key, that no request waits for.
"""

from __future__ import annotations

import contextlib
import secrets

import msgspec

from checkrein.model import ApiKey, BadRequest, Caller, CheckreinError, NotFound, Permission, StoreConflict
from checkrein.model.identity import key_digest
from checkrein.model.json import JsonObject
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records

ROOM = "key"
#: the secrets of before, by digest; `lookup` is the id of their key
PREVIOUS = "key_previous"
#: when a key was last used, by its id
USED = "key_used"
HOUR_US = 3_600_000_000
#: every secret begins with this, so that scanners and people recognise a leaked one
PREFIX = "crk_"
#: bounds of what goes into one record
MAX_NAME, MAX_ROLES = 200, 100
MAX_LIFE_S = 100 * 366 * 86_400
#: how often a change is tried again after another process changed the key
ATTEMPTS = 32


class Keys:
    """Every method reads the store, so a key revoked by another process stops at once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        #: the hour in which this process last noted that a key was used
        self._noted: dict[str, int] = {}

    def create(
        self,
        name: str,
        *,
        owner: str = "",
        roles: tuple[str, ...] = (),
        agent: str = "",
        permissions: tuple[Permission, ...] = (Permission.CALL,),
        expires_s: int = 0,
        by: str,
    ) -> tuple[ApiKey, str]:
        """Make a key and return it with its secret, which cannot be had again. `by` is who made it."""
        for text in (name, owner or name, agent or name, *roles):
            if not text.strip() or len(text) > MAX_NAME or not text.isprintable():
                raise BadRequest(
                    f"a name or role of the key is empty, longer than {MAX_NAME} characters or not printable",
                    hint="name the key after the agent or person that will hold it",
                )
        if len(roles) > MAX_ROLES:
            raise BadRequest(f"the key has more than {MAX_ROLES} roles", hint="give it those it needs")
        now_us = self._clock.now_us()
        expires_us = _end(expires_s, now_us)
        if not permissions:
            hint = "give it `call`, `decide`, `audit`, `operate` or `approve`"
            raise BadRequest("the key may do nothing", hint=hint)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id="key_" + secrets.token_hex(8),
            name=name,
            owner=owner or name,
            roles=roles,
            agent=agent,
            permissions=permissions,
            digest=key_digest(secret),
            created_us=now_us,
            expires_us=expires_us,
        )
        detail = {
            "key": key.id,
            "owner": key.owner,
            "roles": list(roles),
            "permissions": [permission.value for permission in permissions],
        }
        self._save(key, expect=0, kind="admin.key_created", by=by, detail=detail)
        return key, secret

    def find(self, secret: str) -> ApiKey | None:
        """The live key with this secret, looked up by digest so that timing tells nothing about it."""
        digest, now_us = key_digest(secret), self._clock.now_us()
        for row in self._store.rows(ROOM, lookup=digest, limit=1) or self._rotated(digest):
            key = row.read(ApiKey)
            if key.opened_by(digest, now_us):
                self._note(key.id, now_us)
                return key
        return None

    def _rotated(self, digest: str) -> list[Row]:
        """The key that this was the secret of before its rotation."""
        before = self._store.row(PREVIOUS, digest)
        row = self._store.row(ROOM, before.lookup) if before else None
        return [row] if row else []

    def _note(self, id: str, now_us: int) -> None:
        """Note the hour of its use; what fails here is noted with a later use."""
        hour_us = now_us - now_us % HOUR_US
        if self._noted.get(id, 0) >= hour_us:
            return
        self._noted[id] = hour_us
        with contextlib.suppress(CheckreinError):
            row = self._store.row(USED, id)
            if row is None or row.read(int) < hour_us:
                version = row.version if row else 0
                used = Row(USED, id, version + 1, "", "", msgspec.json.encode(hour_us))
                self._store.commit(Unit(saves=(Save(used, version),)))

    def used_us(self, id: str) -> int:
        """The hour in which the key was last used, microseconds since 1970, UTC; 0 if it never was."""
        row = self._store.row(USED, id)
        return row.read(int) if row else 0

    def may_go_on(self, caller: Caller) -> bool:
        """Whether somebody who was let in a moment ago still is: a key may have been revoked meanwhile."""
        row = self._store.row(ROOM, caller.id) if caller.id.startswith("key_") else None
        return not caller.id.startswith("key_") or (row is not None and row.read(ApiKey).live(self._clock.now_us()))

    def all(self) -> list[ApiKey]:
        found: list[ApiKey] = []
        while rows := self._store.rows(ROOM, after=found[-1].id if found else "", limit=500):
            found.extend(row.read(ApiKey) for row in rows)
        return found

    def rotate(self, id: str, *, overlap_s: int, expires_s: int = 0, by: str) -> tuple[ApiKey, str]:
        """Give the key a new secret and return it with that. The one of before opens it for `overlap_s` more.

        One from before an earlier rotation opens nothing any more. `expires_s` gives the key a new end; 0 keeps the
        one it has. Raises `BadRequest` for a key that is over.
        """
        if not 0 <= overlap_s <= MAX_LIFE_S:
            raise BadRequest("the overlap is not from 0 seconds to 100 years", hint="give it such as `1d`")
        for _ in range(ATTEMPTS):
            row = self._row(id)
            key, now_us = row.read(ApiKey), self._clock.now_us()
            if not key.live(now_us):
                raise BadRequest(
                    f"key `{id}` is revoked or expired", hint="make a new one with `checkrein keys create`"
                )
            secret = PREFIX + secrets.token_urlsafe(32)
            rotated = msgspec.structs.replace(
                key,
                digest=key_digest(secret),
                rotated_us=now_us,
                expires_us=_end(expires_s, now_us) or key.expires_us,
                previous_digest=key.digest if overlap_s else "",
                previous_until_us=now_us + overlap_s * 1_000_000 if overlap_s else 0,
            )
            aliases = []
            if overlap_s:
                aliases.append(Save(Row(PREVIOUS, key.digest, 1, "", key.id, b""), 0))
            if key.previous_digest:
                aliases.append(Save(Row(PREVIOUS, key.previous_digest, 0, "", "", b""), 1))
            detail = {"key": key.id, "overlap_s": overlap_s}
            try:
                self._save(rotated, *aliases, expect=row.version, kind="admin.key_rotated", by=by, detail=detail)
            except StoreConflict:
                continue
            return rotated, secret
        raise StoreConflict(f"key `{id}` keeps changing", hint="try again")

    def revoke(self, id: str, *, by: str) -> ApiKey:
        """From the next request on the key opens nothing. Revoking twice is not an error."""
        for _ in range(ATTEMPTS):
            row = self._row(id)
            key = row.read(ApiKey)
            if key.revoked_us:
                return key
            key = msgspec.structs.replace(key, revoked_us=self._clock.now_us())
            try:
                self._save(key, expect=row.version, kind="admin.key_revoked", by=by, detail={"key": key.id})
            except StoreConflict:
                continue
            return key
        raise StoreConflict(f"key `{id}` keeps changing", hint="try again")

    def _row(self, id: str) -> Row:
        row = self._store.row(ROOM, id) if id.isprintable() else None
        if row is None:
            shown = id.isprintable() and not id.startswith(PREFIX)  # a secret is never repeated
            what = f"no key `{id[:80]}`" if shown else "that is not the id of a key"
            raise NotFound(what, hint="`checkrein keys list` shows the ids, `key_...`")
        return row

    def _save(self, key: ApiKey, *more: Save, expect: int, kind: str, by: str, detail: JsonObject) -> None:
        state = "revoked" if key.revoked_us else "live"
        row = Row(ROOM, key.id, expect + 1, state, key.digest, msgspec.json.encode(key))
        draft = records.admin(kind, by, detail)
        self._store.commit(Unit(drafts=(draft,), saves=(Save(row, expect), *more))).result()


def _end(expires_s: int, now_us: int) -> int:
    """When a key ends that lives so long from now on; 0 for never."""
    if not 0 <= expires_s <= MAX_LIFE_S:
        raise BadRequest("the key's life is not from 1 second to 100 years", hint="leave it out for no end")
    return now_us + expires_s * 1_000_000 if expires_s else 0
