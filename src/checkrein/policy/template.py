"""Templates: policies with `?principal` or `?resource`, which have an effect only where they are linked.

A link gives each slot its entity: `{"template_id": "t", "id": "t-alice", "values": {"?principal": {"type": "User",
"id": "alice"}}}`. What comes of it is a policy like any other, with the annotations of its template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from checkrein.model import BadRequest
from checkrein.policy.cedar import Policy
from checkrein.policy.expression import Est
from checkrein.policy.source import problem
from checkrein.policy.tokens import segments
from checkrein.policy.values import Uid


def slots(est: Est) -> tuple[str, ...]:
    """The slots of a policy in Cedar's JSON form; none for a policy that is no template."""
    scopes = [cast("Est", est[variable]) for variable in ("principal", "resource")]
    inner = [cast("Est", scope["in"]) if isinstance(scope.get("in"), Mapping) else scope for scope in scopes]
    return tuple(cast("str", scope["slot"]) for scope in inner if "slot" in scope)


def link(templates: Mapping[str, Policy], given: Mapping[str, object]) -> tuple[Policy | None, str]:
    """The policy that a link makes of its template, or None and why there is none."""
    name, id, values = given.get("template_id"), given.get("id"), given.get("values")
    hint = 'write `{"template_id": "...", "id": "...", "values": {"?principal": {"type": ..., "id": ...}}}`'
    if not isinstance(name, str) or not isinstance(id, str) or not id or not isinstance(values, Mapping):
        return None, problem("links", "a link is not in its form", hint)
    place = f"link `{id[:80]}`"
    template = templates.get(name)
    if template is None:
        known = ", ".join(f"`{known}`" for known in sorted(templates)) or "there are none"
        return None, problem(place, f"there is no template `{name[:80]}`", f"templates: {known}")
    wanted = slots(template.est)
    if set(wanted) != set(values):
        return None, problem(place, f"the template has other slots: {', '.join(wanted)}", "give each its entity")
    try:
        uids = {slot: Uid.from_json(values[slot]) for slot in wanted}
    except BadRequest as error:
        return None, problem(place, str(error), error.hint)
    est = {**template.est}
    for variable in ("principal", "resource"):
        est[variable] = _filled(cast("Est", est[variable]), uids)
    return msgspec.structs.replace(template, id=id, est=est, text=_text(template.text, uids)), ""


def _filled(scope: Est, uids: Mapping[str, Uid]) -> Est:
    if isinstance(inner := scope.get("in"), Mapping):
        return {**scope, "in": _filled(cast("Est", inner), uids)}
    if "slot" not in scope:
        return scope
    kept = {name: part for name, part in scope.items() if name != "slot"}
    return {**kept, "entity": uids[cast("str", scope["slot"])]._asdict()}


def _text(text: str, uids: Mapping[str, Uid]) -> str:
    """The template as text with its slots filled: `?` stands nowhere else in Cedar outside strings and comments."""
    (segment,) = segments(text)
    written, at = [], 0
    for mark, name in zip(segment.tokens, segment.tokens[1:], strict=False):
        if mark.text == "?":
            written += [text[at : mark.end - segment.start - 1], _uid_text(uids[f"?{name.text}"])]
            at = name.end - segment.start
    return "".join(written) + text[at:]


def _uid_text(uid: Uid) -> str:
    plain = (char if char.isascii() and char.isalnum() else f"\\u{{{ord(char):x}}}" for char in uid.id)
    return f'{uid.type}::"{"".join(plain)}"'
