"""API keys: made, found by the digest of their secret, revoked. The secret is shown once and never stored."""

from __future__ import annotations

import secrets

import msgspec

from checkrein.model import ApiKey, BadRequest, NotFound, Permission, StoreConflict
from checkrein.model.identity import key_digest
from checkrein.model.json import JsonObject
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records

ROOM = "key"
#: every secret begins with this, so that scanners and people recognise a leaked one
PREFIX = "crk_"
#: bounds of what goes into one record
MAX_NAME, MAX_ROLES = 200, 100
MAX_LIFE_S = 100 * 366 * 86_400
#: how often a revocation is tried again after another process changed the key
ATTEMPTS = 32


class Keys:
    """Every method reads the store, so a key revoked by another process stops at once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

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
        if not 0 <= expires_s <= MAX_LIFE_S:
            raise BadRequest("the key's life is not from 1 second to 100 years", hint="leave it out for no end")
        if not permissions:
            raise BadRequest("the key may do nothing", hint="give it `call`, `decide`, `audit` or `operate`")
        secret = PREFIX + secrets.token_urlsafe(32)
        now_us = self._clock.now_us()
        key = ApiKey(
            id="key_" + secrets.token_hex(8),
            name=name,
            owner=owner or name,
            roles=roles,
            agent=agent,
            permissions=permissions,
            digest=key_digest(secret),
            created_us=now_us,
            expires_us=now_us + expires_s * 1_000_000 if expires_s else 0,
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
        for row in self._store.rows(ROOM, lookup=key_digest(secret), limit=1):
            key = row.read(ApiKey)
            if key.live(self._clock.now_us()):
                return key
        return None

    def all(self) -> list[ApiKey]:
        found: list[ApiKey] = []
        while rows := self._store.rows(ROOM, after=found[-1].id if found else "", limit=500):
            found.extend(row.read(ApiKey) for row in rows)
        return found

    def revoke(self, id: str, *, by: str) -> ApiKey:
        """From the next request on the key opens nothing. Revoking twice is not an error."""
        for _ in range(ATTEMPTS):
            row = self._store.row(ROOM, id) if id.isprintable() else None
            if row is None:
                shown = id.isprintable() and not id.startswith(PREFIX)  # a secret is never repeated
                what = f"no key `{id[:80]}`" if shown else "that is not the id of a key"
                raise NotFound(what, hint="`checkrein keys list` shows the ids, `key_...`")
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

    def _save(self, key: ApiKey, *, expect: int, kind: str, by: str, detail: JsonObject) -> None:
        state = "revoked" if key.revoked_us else "live"
        row = Row(ROOM, key.id, expect + 1, state, key.digest, msgspec.json.encode(key))
        draft = records.admin(kind, by, detail)
        self._store.commit(Unit(drafts=(draft,), saves=(Save(row, expect),))).result()
