"""What policies demand of the value at one attribute path, turned into tables of bit masks.

Bit `n` of a mask stands for policy `n`. For each type that a value can have, a column knows the policies that it
suits: by one look-up of the value, by one bisection of a long, by the lengths of prefixes of a text, by the members
of a set, by the ancestors of an entity.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

from checkrein.policy.conjunct import Constraint, Need, Path, What
from checkrein.policy.extension import Datetime, Decimal, Duration, Ip
from checkrein.policy.node import Env
from checkrein.policy.operators import wildcards
from checkrein.policy.values import MAX_LONG, MIN_LONG, Key, Uid, Value, key, key_type

#: the policies that a value suits
Look = Callable[[Value, Env], int]

TYPES: tuple[type, ...] = (str, int, bool, Uid, frozenset, dict, Decimal, Ip, Datetime, Duration)
#: patterns that are neither a prefix nor a suffix are tried one by one; more of them on one path are left to closures
MAX_PATTERNS = 24

_NOBODY: frozenset[Uid] = frozenset()


class Absent:
    """Stands for the value of a path of which the part at `path` is missing (None: it has no such members)."""

    __slots__ = ("path",)

    def __init__(self, path: Path | None) -> None:
        self.path = path


#: stands for an attribute of what is neither a record nor an entity, or a tag of what is no entity
ILL = Absent(None)


class Answer(NamedTuple):
    """What a column says of values of one type. `erring` are policies that the type makes err.

    Without a `look` the policies are those in `table` under the value, or `other`.
    """

    erring: int
    table: Mapping[Value, int]
    other: int
    look: Look | None


class _Demand:
    """What one policy demands of the value."""

    def __init__(self) -> None:
        self.there: set[bool] = set()
        self.among: frozenset[Key] | None = None
        self.excluded: frozenset[Key] = frozenset()
        self.ranged, self.low, self.high = False, MIN_LONG, MAX_LONG
        self.fits: tuple[str, ...] | None = None
        self.misfits: tuple[tuple[str, ...], ...] = ()
        self.holds: frozenset[Key] | None = None
        self.lacks: frozenset[Key] = frozenset()
        self.within: frozenset[Key] | None = None
        self.outside: frozenset[Key] = frozenset()
        self.kinds: frozenset[Key] | None = None
        self.is_not: frozenset[Key] = frozenset()

    def take(self, asked: Constraint) -> bool:
        """Add a constraint; False where there is no room for it, and its closure must see to it."""
        match asked.what:
            case What.HAS:
                self.there.add(asked.positive)
            case What.RANGE:
                self.ranged, self.low, self.high = True, max(self.low, asked.low), min(self.high, asked.high)
            case What.CONSTANT if asked.positive:
                self.among = asked.among if self.among is None else self.among & asked.among
            case What.CONSTANT:
                self.excluded |= asked.among
            case What.IS if asked.positive:
                self.kinds = asked.among if self.kinds is None else self.kinds & asked.among
            case What.IS:
                self.is_not |= asked.among
            case What.LIKE if asked.positive:
                if self.fits is not None:
                    return False
                self.fits = asked.pieces
            case What.LIKE:
                self.misfits += (asked.pieces,)
            case What.CONTAINS if asked.positive:
                if self.holds is not None:
                    return False
                self.holds = asked.among
            case What.CONTAINS:
                self.lacks |= asked.among
            case What.IN if asked.positive:
                if self.within is not None:
                    return False
                self.within = asked.among
            case What.IN:
                self.outside |= asked.among
        return True


class Column:
    """Gathers what the policies demand at `path`, then answers by the type of the value."""

    def __init__(self, path: Path, everyone: int) -> None:
        self.path = path
        self._everyone = everyone
        self._demands: dict[int, _Demand] = {}
        self._needs: list[tuple[int, Need]] = []
        self._patterns: set[tuple[str, ...]] = set()

    def need(self, place: int, need: Need) -> None:
        self._needs.append((1 << place, need))

    def take(self, place: int, asked: Constraint) -> bool:
        """Add a constraint of the policy at `place`; False where its closure must see to it."""
        if asked.what is What.LIKE and asked.pieces not in self._patterns and not _Patterns.quick(asked.pieces):
            if len(self._patterns) == MAX_PATTERNS:
                return False
            self._patterns.add(asked.pieces)
        return self._demands.setdefault(1 << place, _Demand()).take(asked)

    def answers(self) -> dict[type, Answer]:
        """By type; a type that changes nothing is left out."""
        answers = {kind: self._answer(kind) for kind in TYPES}
        nothing = Answer(0, {}, self._everyone, None)
        return {kind: answer for kind, answer in answers.items() if answer != nothing}

    def absent(self, missing: Absent) -> tuple[int, int]:
        """The policies that stay, and those that err, where a part of the path is missing."""
        erring = 0
        for bit, need in self._needs:
            if missing.path not in need.guards:
                erring |= bit
        gone = self._union(lambda demand: True in demand.there) if missing.path == self.path else 0
        return self._everyone & ~gone, erring

    def _union(self, holds: Callable[[_Demand], bool]) -> int:
        mask = 0
        for bit, demand in self._demands.items():
            if holds(demand):
                mask |= bit
        return mask

    def _answer(self, kind: type) -> Answer:
        erring = 0
        for bit, need in self._needs:
            if need.kinds is not None and kind not in need.kinds:
                erring |= bit
        alive = self._everyone & ~self._union(lambda demand: False in demand.there)
        table, other = self._constants(kind, alive)
        looks = self._looks(kind)
        if kind is int and (table or other != alive or any(demand.ranged for demand in self._demands.values())):
            looks.append(self._numbers(alive))
        elif kind is bool and table:
            yes, no = table.get(key(True), other), table.get(key(False), other)
            looks.append(lambda value, env: yes if value else no)
        elif kind is dict and (table or erring or other != self._everyone):
            looks.append(lambda value, env: table.get(key(value), other) if table else other)
        elif looks and (table or other != self._everyone):
            looks.append(lambda value, env: table.get(value, other))
        if looks:
            return Answer(erring, {}, other, _all(looks))
        return Answer(erring, cast("Mapping[Value, int]", table), other, None)

    def _constants(self, kind: type, alive: int) -> tuple[dict[Key, int], int]:
        """The policies that a value suits by equality, and those that any other value of the type suits."""
        rows = [(bit, d.among, d.excluded) for bit, d in self._demands.items() if d.among is not None or d.excluded]
        gain, lose, named = _sides(
            (bit, None if wanted is None else _of_type(wanted, kind), _of_type(unwanted, kind))
            for bit, wanted, unwanted in rows
        )
        other = alive & ~named
        return {value: (other | gain.get(value, 0)) & ~lose.get(value, 0) & alive for value in gain | lose}, other

    def _looks(self, kind: type) -> list[Look]:
        demands = self._demands.items()
        looks: list[Look] = []
        if kind is str:
            if positive := [(bit, d.fits) for bit, d in demands if d.fits is not None]:
                fits, unasked = _Patterns(positive), self._everyone & ~_mask(bit for bit, _ in positive)
                looks.append(lambda value, env: unasked | fits.hits(cast("str", value)))
            if negative := [(bit, pieces) for bit, d in demands for pieces in d.misfits]:
                misfits = _Patterns(negative)
                looks.append(lambda value, env: ~misfits.hits(cast("str", value)))
        elif kind is frozenset:
            if rows := [(bit, d.holds, d.lacks) for bit, d in demands if d.holds is not None or d.lacks]:
                looks.append(self._members(rows))
        elif kind is Uid:
            if rows := [(bit, d.kinds, d.is_not) for bit, d in demands if d.kinds is not None or d.is_not]:
                looks.append(self._kinds(rows))
            if rows := [(bit, d.within, d.outside) for bit, d in demands if d.within is not None or d.outside]:
                looks.append(self._hierarchy(rows))
        return looks

    def _numbers(self, alive: int) -> Look:
        """Each policy suits some stretches of the longs; where one begins or ends, its bit turns."""
        turns: dict[int, int] = {MIN_LONG: alive}
        for bit, demand in self._demands.items():
            if bit & alive:
                turns[MIN_LONG] ^= bit
                for low, high in _stretches(demand):
                    turns[low] = turns.get(low, 0) ^ bit
                    turns[high + 1] = turns.get(high + 1, 0) ^ bit
        starts, masks, mask = sorted(turns), [0], 0
        for start in starts:
            mask ^= turns[start]
            masks.append(mask)
        return lambda value, env: masks[bisect_right(starts, cast("int", value))]

    def _kinds(self, rows: list[_Row]) -> Look:
        gain, lose, named = _sides(rows)
        other = self._everyone & ~named
        table = {name: (other | gain.get(name, 0)) & ~lose.get(name, 0) for name in gain | lose}
        return lambda value, env: table.get(cast("Uid", value).type, other)

    def _members(self, rows: list[_Row]) -> Look:
        gain, lose, named = _sides(rows)
        unasked, known = self._everyone & ~named, frozenset(gain | lose)

        def look(value: Value, env: Env) -> int:
            keep, drop = unasked, 0
            for item in cast("frozenset[Key]", value) & known:
                keep |= gain.get(item, 0)
                drop |= lose.get(item, 0)
            return keep & ~drop if drop else keep

        return look

    def _hierarchy(self, rows: list[_Row]) -> Look:
        gain, lose, named = _sides(rows)
        unasked, known = self._everyone & ~named, frozenset(gain | lose)

        def look(value: Value, env: Env) -> int:
            uid = cast("Uid", value)
            keep, drop = unasked | gain.get(uid, 0), lose.get(uid, 0)
            for above in env.ancestors.get(uid, _NOBODY) & known:
                keep |= gain.get(above, 0)
                drop |= lose.get(above, 0)
            return keep & ~drop if drop else keep

        return look


#: a policy's bit, one of which values it wants (None: whichever), and which it does not want
_Row = tuple[int, frozenset[Key] | None, frozenset[Key]]


def _sides(rows: Iterable[_Row]) -> tuple[dict[Key, int], dict[Key, int], int]:
    """By value: the policies that want it, and those that do not; and all the policies that want one."""
    gain: dict[Key, int] = {}
    lose: dict[Key, int] = {}
    named = 0
    for bit, wanted, unwanted in rows:
        if wanted is not None:
            named |= bit
        for value in wanted or ():
            gain[value] = gain.get(value, 0) | bit
        for value in unwanted:
            lose[value] = lose.get(value, 0) | bit
    return gain, lose, named


def _of_type(keys: frozenset[Key], kind: type) -> frozenset[Key]:
    return frozenset([item for item in keys if key_type(item) is kind])


def _stretches(demand: _Demand) -> list[tuple[int, int]]:
    """The longs that a policy allows, as stretches that neither touch nor overlap."""
    if demand.among is not None:
        wanted = cast("frozenset[int]", _of_type(demand.among, int) - demand.excluded)
        return [(number, number) for number in wanted if demand.low <= number <= demand.high]
    stretches, low = [], demand.low
    for hole in sorted(cast("frozenset[int]", _of_type(demand.excluded, int))):
        if low <= hole <= demand.high:
            stretches.append((low, hole - 1))
            low = hole + 1
    stretches.append((low, demand.high))
    return [stretch for stretch in stretches if stretch[0] <= stretch[1]]


def _mask(bits: Iterable[int]) -> int:
    mask = 0
    for bit in bits:
        mask |= bit
    return mask


def _all(looks: list[Look]) -> Look:
    if len(looks) == 1:
        return looks[0]

    def look(value: Value, env: Env) -> int:
        mask = -1
        for one in looks:
            mask &= one(value, env)
        return mask

    return look


class _Patterns:
    """Which policies name a pattern that a text fits. Prefixes and suffixes are looked up by their lengths."""

    def __init__(self, rows: Iterable[tuple[int, tuple[str, ...]]]) -> None:
        heads: dict[str, int] = {}
        tails: dict[str, int] = {}
        inner: dict[str, int] = {}
        others: dict[tuple[str, ...], int] = {}
        for bit, pieces in rows:
            if len(pieces) == 3 and not pieces[0] and not pieces[2]:
                inner[pieces[1]] = inner.get(pieces[1], 0) | bit
            elif not self.quick(pieces):
                others[pieces] = others.get(pieces, 0) | bit
            elif pieces[-1]:
                tails[pieces[-1]] = tails.get(pieces[-1], 0) | bit
            else:
                heads[pieces[0]] = heads.get(pieces[0], 0) | bit
        self._heads, self._head_sizes = heads, sorted({len(text) for text in heads})
        self._tails, self._tail_sizes = tails, sorted({len(text) for text in tails})
        self._inner = list(inner.items())
        self._others = [(wildcards(pieces), mask) for pieces, mask in others.items()]

    @staticmethod
    def quick(pieces: tuple[str, ...]) -> bool:
        """Whether it is `text*` or `*text`."""
        return not any(pieces[1:-1]) and (not pieces[0] or not pieces[-1])

    def hits(self, text: str) -> int:
        mask = 0
        for size in self._head_sizes:
            mask |= self._heads.get(text[:size], 0)
        for size in self._tail_sizes:
            mask |= self._tails.get(text[-size:], 0)
        for part, policies in self._inner:
            if part in text:
                mask |= policies
        for fits, policies in self._others:
            if fits(text):
                mask |= policies
        return mask
