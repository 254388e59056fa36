"""`/approvals/ID` for people with a browser: what the links in messages open. A GET decides nothing.

There is no session and no cookie, so no other page can make a browser vote: whoever looks sends their key or token, and
is handed a ticket for this one approval as it was shown. It is signed, good for a quarter of an hour, and carries no
secret. Without a key every id has the same page. No script runs, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response

from checkrein.flow.approval import Approval, State
from checkrein.model import BadRequest, Caller, CheckreinError, NotFound, Permission, Unauthorized
from checkrein.model.stamp import stamp
from checkrein.ports import Clock, Identities
from checkrein.services.approvals import Approvals, beside, in_words, shown_hash
from checkrein.services.keys import Keys
from checkrein.services.refusals import Refusals
from checkrein.web import body, refused
from checkrein.web.approvals import ApprovalRoutes, sees
from checkrein.web.ballots import Ballot, checked
from checkrein.web.errors import status_of
from checkrein.web.guard import bearer

PAGES = "/approvals/"
PAGE = f"{PAGES}{{id}}"
TICKET_S = 15 * 60
MAX_BODY = 64 * 1024
_FORM = "application/x-www-form-urlencoded"
_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{margin:2rem auto;max-width:46rem;padding:0 1rem}
dt{font-weight:600;margin-top:.6rem}dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
input,textarea,button{font:inherit;padding:.4rem .7rem;margin:.2rem 0}textarea,input{width:100%;box-sizing:border-box}
.said{border-left:.3rem solid;padding-left:1rem}
"""
_CSP = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _CSP,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Ticket(msgspec.Struct, frozen=True):
    """Who looked at what: the right to vote on exactly that, for a while."""

    caller: Caller
    approval: str
    shown: str
    until_us: int


class Pages:
    """`steering` names the arguments of a tool that steer its effect."""

    def __init__(
        self,
        routes: ApprovalRoutes,
        approvals: Approvals,
        keys: Keys,
        identities: Identities,
        clock: Clock,
        *,
        key: bytes,
        steering: Callable[[str], tuple[str, ...]],
        refusals: Refusals,
    ) -> None:
        self._routes = routes
        self._approvals = approvals
        self._keys = keys
        self._identities = identities
        self._clock = clock
        self._key = hmac.digest(key, b"checkrein.ticket.v1", "sha256")
        self._steering = steering
        self._refusals = refusals

    async def page(self, http: HttpRequest) -> Response:
        """A GET asks who looks, whatever the id; a POST shows the approval, or takes the vote of who was shown it."""
        if http.method != "POST":
            return _page("Approval", _login())
        id = http.path_params["id"]
        try:
            form = await _form(http)
            if "ticket" in form:
                return await self._vote(id, form)
            caller = await bearer(form.get("key", "").strip(), self._keys, self._identities)
            return self._show(id, caller)
        except CheckreinError as error:
            if reason := refused.reason(error):
                self._refusals.note(reason)
            why = f"<p class=said>{escape(str(error))}. {escape(error.hint)}</p>"
            return _page("Approval", why + _login(), status=status_of(error))

    def _show(self, id: str, caller: Caller) -> Response:
        approval, now_us = self._seen(id, caller), self._clock.now_us()
        content = self._view(approval, now_us)
        if approval.status(now_us) is State.PENDING and Permission.APPROVE in caller.permissions:
            ticket = Ticket(caller, approval.id, shown_hash(approval), now_us + TICKET_S * 1_000_000)
            content += _ballot(self._signed(ticket))
        return _page(f"{approval.request().action.name}: {approval.status(now_us).value}", content)

    async def _vote(self, id: str, form: Mapping[str, str]) -> Response:
        ticket = self._opened(form["ticket"])
        if ticket.approval != id:
            raise Unauthorized("the ticket is for another approval", hint="look at this one first")
        ballot = checked(Ballot(form.get("decision", ""), ticket.shown, form.get("reason", "")))
        after = await asyncio.to_thread(self._routes.cast, id, ticket.caller, ballot)
        needed = f" Still needed: {escape(', '.join(after.missing()))}." if after.state is State.PENDING else ""
        said = f"<p class=said>Your answer is recorded: {escape(ballot.decision)}.{needed}</p>"
        return _page("Recorded", said + self._view(after, self._clock.now_us()))

    def _view(self, approval: Approval, now_us: int) -> str:
        return _view(approval, self._steering(approval.request().action.name), now_us)

    def _seen(self, id: str, caller: Caller) -> Approval:
        found = self._approvals.find(id)
        if found is None or not sees(caller, found):
            raise NotFound("there is no such approval, or it is not for you to see", hint="ask who sent the link")
        return self._approvals.shown(found)

    def _signed(self, ticket: Ticket) -> str:
        data = base64.urlsafe_b64encode(msgspec.json.encode(ticket)).decode()
        return f"{data}.{hmac.digest(self._key, data.encode(), 'sha256').hex()}"

    def _opened(self, text: str) -> Ticket:
        """Raises `Unauthorized` for a ticket that is not ours, too old, or whose key was revoked meanwhile."""
        data, _, signature = text.partition(".")
        hint = "look at the approval again"
        if not text.isascii() or not hmac.compare_digest(
            hmac.digest(self._key, data.encode(), "sha256").hex(), signature
        ):
            raise Unauthorized("the ticket is not one of this server", hint=hint)
        try:
            ticket = msgspec.json.decode(base64.urlsafe_b64decode(data), type=Ticket)
        except (binascii.Error, msgspec.MsgspecError) as error:
            raise Unauthorized("the ticket is not one of this server", hint=hint) from error
        if self._clock.now_us() >= ticket.until_us:
            raise Unauthorized("the ticket is too old", hint=hint)
        if not self._keys.may_go_on(ticket.caller):
            raise Unauthorized("the key has been revoked or has expired", hint="use another one")
        return ticket


async def _form(http: HttpRequest) -> dict[str, str]:
    """The fields of a form, each once; raises `BadRequest`."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    data = await body.read(http.headers, http.receive, MAX_BODY)
    try:
        fields = parse_qs(data.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except ValueError as error:
        raise BadRequest("this is not a form", hint="use the page") from error
    if kind != _FORM or any(len(values) > 1 for values in fields.values()):
        raise BadRequest("this is not a form", hint="use the page")
    return {name: values[0] for name, values in fields.items()}


def _login() -> str:
    return (
        "<p>Somebody asks for an approval. Say who you are to see it.</p>"
        "<form method=post><label for=key>Your key (<code>crk_...</code>) or a token of your organisation</label>"
        "<input id=key name=key type=password autocomplete=current-password required><button>Look</button></form>"
    )


def _ballot(ticket: str) -> str:
    return (
        f'<form method=post><input type=hidden name=ticket value="{escape(ticket)}">'
        "<label for=reason>Reason</label><textarea id=reason name=reason rows=3 maxlength=2000></textarea>"
        "<button name=decision value=approve>Approve</button> <button name=decision value=deny>Deny</button></form>"
    )


def _view(approval: Approval, steering: tuple[str, ...], now_us: int) -> str:
    """What will happen, why people are asked, who is still needed; everything in it comes from others."""
    request, state = approval.request(), approval.status(now_us)
    through = f", through {approval.agent}" if approval.agent else ""
    facts = [
        ("State", state.value),
        ("Who asks", approval.requester.id + through),
        ("Also for", ", ".join(approval.chain)),
        ("What will happen", f"{request.action.name} on {request.resource.type} {request.resource.id}"),
        *(
            (f"Argument {name} (steers it)" if name in steering else f"Argument {name}", in_words(value))
            for name, value in request.action.input.items()
        ),
        *((f"Also: {name}", value) for name, value in beside(approval)),
        ("Risk", f"{approval.risk.value}: {', '.join(approval.factors)}"),
        ("Which policy asks", ", ".join(approval.policies)),
        ("Because", "; ".join(approval.reasons)),
        ("Needed", approval.requirement.terms()),
        ("Still needed", ", ".join(approval.missing()) if state is State.PENDING else ""),
        *(
            (f"Answer of {cast.voter}", f"{'approve' if cast.approve else 'deny'} {cast.reason}")
            for cast in approval.votes
        ),
        ("Asked at", stamp(approval.created_us)),
        ("Until", stamp(approval.deadline_us)),
        ("Trace", approval.trace_id),
        ("Hash of the action", approval.action_hash),
    ]
    rows = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in facts if value)
    return f"<dl>{rows}</dl>"


def _safe(text: str) -> str:
    """Escaped, with what is invisible or turns the reading direction written out."""
    shown = (char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text)
    return escape("".join(shown))


def _page(title: str, content: str, *, status: int = 200) -> Response:
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_safe(title)}</title>"
    text = f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head>"
    return HTMLResponse(
        f"{text}<body><main><h1>{_safe(title)}</h1>{content}</main></body></html>", status, headers=_HEADERS
    )
