"""What a bearer token of an OpenID Connect issuer must hold before anybody is believed to be somebody.

Pure: the keys and the time are handed in; `oidc` fetches the keys. The signature is checked by `joserfc`, with the
algorithms that the configuration pins, and with public keys only: nothing in the token chooses how it is checked.
RFC 8725 has the reasons.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from checkrein.model import BadRequest, Caller, Permission, Unauthorized
from checkrein.model.json import load_object

MAX_TOKEN, MAX_PERSON, MAX_ROLES = 16 * 1024, 200, 100
_MIN_RSA_BITS = 2048
#: members of a JWK that are taken
_PUBLIC = ("kty", "kid", "use", "alg", "n", "e", "crv", "x", "y")
_HINT = "ask the issuer for a fresh one, for this audience"

PublicKey = RSAKey | ECKey | OKPKey


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of one issuer."""

    name: str
    issuer: str
    audience: str
    #: of `model.identity.TOKEN_ALGORITHMS`
    algorithms: tuple[str, ...]
    #: values of the header `typ`; a token without one counts as `JWT`
    types: tuple[str, ...] = ("JWT", "at+jwt")
    #: the claim that names the person; with `email`, `emails` says whose address it is
    person_claim: str = "sub"
    emails: Mapping[str, str] = {}
    #: where the roles stand, dots leading inside (`realm_access.roles`), and what each is called here
    roles_claim: str = ""
    roles: Mapping[str, str] = {}
    agent_claim: str = ""
    permissions: tuple[Permission, ...] = ()
    leeway_s: int = 30


class Peeked(msgspec.Struct, frozen=True):
    """What a token says of itself, before it is believed."""

    issuer: str
    alg: str
    typ: str
    kid: str


def peek(token: str) -> Peeked:
    """Who is said to have made the token, and how; raises `Unauthorized` for what is no token."""
    if len(token) > MAX_TOKEN or not token.isascii():
        raise Unauthorized(f"the token is longer than {MAX_TOKEN} characters or not ASCII", hint=_HINT)
    parts = token.split(".")
    try:
        header, claims = (load_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (binascii.Error, ValueError, BadRequest) as error:
        raise Unauthorized("the token cannot be read", hint=_HINT) from error
    if "crit" in header:
        raise Unauthorized("the token asks for an extension that is not known here", hint=_HINT)
    found = (claims.get("iss"), header.get("alg"), header.get("typ", "JWT"), header.get("kid", ""))
    return Peeked(*(value if isinstance(value, str) else "" for value in found))


def read_keys(jwks: bytes) -> dict[str, PublicKey]:
    """The public signing keys of a JWK Set by their `kid`; what cannot be used is left out. Raises `BadRequest`."""
    listed = load_object(jwks).get("keys")
    if not isinstance(listed, list):
        raise BadRequest("the key set has no `keys`")
    found: dict[str, PublicKey] = {}
    for given in listed:
        key = _key(given) if isinstance(given, dict) else None
        if key is not None:
            kid = given.get("kid", "")
            found[kid if isinstance(kid, str) else ""] = key
    return found


def _key(given: dict[str, object]) -> PublicKey | None:
    if given.get("use", "sig") != "sig" or given.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    public: dict[str, str | list[str]] = {
        name: value for name, value in given.items() if name in _PUBLIC and isinstance(value, str)
    }
    if public.get("kty") == "RSA" and len(public.get("n", "")) * 6 < _MIN_RSA_BITS:  # base64: six bits a character
        return None
    try:
        key = JWKRegistry.import_key(public)
        if isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def verify(token: str, key: PublicKey, expected: Expected, now_s: int) -> Caller:
    """Who the token is of; raises `Unauthorized` that says which check it failed, and nothing of what it holds."""
    said = peek(token)
    if said.alg not in expected.algorithms:
        raise Unauthorized("the token is signed with an algorithm that is not pinned here", hint=_HINT)
    if said.typ.lower().removeprefix("application/") not in {typ.lower() for typ in expected.types}:
        raise Unauthorized("the token is of a type that is not taken here", hint=_HINT)
    if key.alg is not None and key.alg != said.alg:
        raise Unauthorized("the token is signed with another algorithm than its key is for", hint=_HINT)
    try:
        claims = jwt.decode(token, key, algorithms=list(expected.algorithms)).claims
    except (JoseError, ValueError) as error:
        raise Unauthorized("the token's signature does not verify", hint=_HINT) from error
    _check_claims(claims, expected, now_s)
    person = _person(claims, expected)
    agent = _claim(claims, expected.agent_claim) if expected.agent_claim else None
    agent = "" if agent is None else agent
    if not isinstance(agent, str) or len(agent) > MAX_PERSON or not agent.isprintable():
        raise Unauthorized("the token's agent is not a name", hint=_HINT)
    return Caller(
        id=f"oidc:{expected.name}:{person}",
        owner=person,
        roles=_roles(claims, expected),
        agent=agent,
        permissions=expected.permissions,
    )


def _check_claims(claims: Mapping[str, object], expected: Expected, now_s: int) -> None:
    audience = claims.get("aud")
    if claims.get("iss") != expected.issuer:
        raise Unauthorized("the token is of another issuer", hint=_HINT)
    if expected.audience not in (audience if isinstance(audience, list) else [audience]):
        raise Unauthorized("the token is for another audience", hint=_HINT)
    times = {name: claims.get(name) for name in ("exp", "nbf", "iat")}
    for name, at in times.items():
        if at is None and name != "exp":
            continue
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
            raise Unauthorized(f"the token's `{name}` is missing or no time", hint=_HINT)
        if name == "exp" and now_s >= at + expected.leeway_s:
            raise Unauthorized("the token has expired", hint=_HINT)
        if name != "exp" and at > now_s + expected.leeway_s:
            raise Unauthorized("the token is not valid yet", hint="compare the clocks of issuer and server")


def _person(claims: Mapping[str, object], expected: Expected) -> str:
    """The name under which the person votes and acts here."""
    person = _claim(claims, expected.person_claim)
    if not isinstance(person, str) or not 0 < len(person) <= MAX_PERSON or not person.isprintable():
        raise Unauthorized(f"the token's `{expected.person_claim}` names nobody", hint="see `person_claim`")
    if expected.person_claim == "email":
        if claims.get("email_verified") is not True:
            raise Unauthorized("the issuer has not verified the token's `email`", hint="take another `person_claim`")
        return expected.emails.get(person.casefold(), person)
    return person


def _roles(claims: Mapping[str, object], expected: Expected) -> tuple[str, ...]:
    """The roles that the token's are called here; any other says nothing."""
    given = _claim(claims, expected.roles_claim) if expected.roles_claim else []
    named = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    found = (expected.roles[name] for name in named if isinstance(name, str) and name in expected.roles)
    return tuple(dict.fromkeys(found))[:MAX_ROLES]


def _claim(claims: Mapping[str, object], path: str) -> object:
    """A claim by its name; or, if there is none, inside of others: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
