"""Who there is: people, the roles this deployment gives them, and the on-call lists they stand on."""

from __future__ import annotations

import msgspec


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who acts or approves."""

    roles: tuple[str, ...] = ()
    email: str = ""


class People(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody this deployment knows. Who stands on an on-call list holds the list's name as a role in votes."""

    people: dict[str, Person] = {}
    oncall: dict[str, tuple[str, ...]] = {}

    def on_call(self, name: str) -> tuple[str, ...]:
        """The on-call lists that this person stands on."""
        return tuple(listed for listed, names in sorted(self.oncall.items()) if name in names)

    def roles(self, name: str) -> tuple[str, ...]:
        """What this person votes with: their own roles and their on-call lists; empty for a stranger."""
        person = self.people.get(name)
        own = person.roles if person else ()
        return tuple(dict.fromkeys((*own, *self.on_call(name))))

    def holders(self, role: str) -> tuple[str, ...]:
        """Everybody who votes with this role, by name."""
        return tuple(name for name in sorted({*self.people, *self.oncall.get(role, ())}) if role in self.roles(name))
