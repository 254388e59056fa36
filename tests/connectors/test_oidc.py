"""Bearer tokens of a real local issuer: each check by itself, and where keys come from and how often."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from checkrein.connectors import oidc
from checkrein.connectors.oidc import Issuer, Issuers
from checkrein.connectors.tokens import Expected, peek
from checkrein.model import Caller, Permission, Unauthorized, UpstreamUnavailable
from checkrein.web.server import BackgroundServer
from oidc_issuer import AUDIENCE, OidcIssuer

CAN = (Permission.CALL, Permission.APPROVE)


class Clock:
    """A fake clock, some seconds off the real one."""

    def __init__(self) -> None:
        self.ahead_s = 0

    def now_us(self) -> int:
        return (int(time.time()) + self.ahead_s) * 1_000_000


@pytest.fixture(scope="module")
def rsa() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})


@pytest.fixture
def issuer(rsa: RSAKey) -> Iterator[OidcIssuer]:
    made = OidcIssuer()
    made.keys["k1"] = rsa
    with BackgroundServer(made) as server:
        made.url = server.url
        yield made


@pytest.fixture
def expected(issuer: OidcIssuer) -> Expected:
    return Expected(name="corp", issuer=issuer.url, audience=AUDIENCE, algorithms=("RS256",), permissions=CAN)


@pytest.fixture
async def issuers(expected: Expected) -> AsyncIterator[Issuers]:
    made = Issuers([expected], Clock())
    yield made
    await made.close()


async def ask(expected: Expected, token: str, **changed: object) -> Caller:
    made = Issuers([msgspec.structs.replace(expected, **changed)], Clock())
    try:
        return await made.caller(token)
    finally:
        await made.close()


async def test_a_token_says_who_calls_and_the_configuration_what_they_may(issuers: Issuers, issuer: OidcIssuer):
    found = await issuers.caller(issuer.token())
    assert found == Caller(id="oidc:corp:bob", owner="bob", permissions=CAN)


#: in seconds since 1970; the cases are written before the tests begin, which may take long
LONG_AGO, LATER = 1_000_000_000, 100_000_000_000


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://elsewhere.example"}, "not trusted"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["another"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": {"checkrein": 1}}, "audience"),
        ({"exp": LONG_AGO}, "expired"),
        ({"exp": None}, "`exp`"),
        ({"exp": "tomorrow"}, "`exp`"),
        ({"exp": True}, "`exp`"),
        ({"exp": float("inf")}, "cannot be read"),
        ({"nbf": LATER}, "not valid yet"),
        ({"nbf": "now"}, "`nbf`"),
        ({"iat": LATER}, "not valid yet"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": 7}, "names nobody"),
        ({"sub": "bob\n"}, "names nobody"),
        ({"sub": "b" * 201}, "names nobody"),
        ({"typ": "logout+jwt"}, "of a type"),
        ({"typ": ""}, "of a type"),
    ],
)
async def test_each_claim_is_checked(issuers: Issuers, issuer: OidcIssuer, claims: dict[str, Any], says: str):
    with pytest.raises(Unauthorized, match=says) as refused:
        await issuers.caller(issuer.token(**claims))
    assert "bob" not in f"{refused.value}{refused.value.hint}"


async def test_what_is_a_little_late_or_early_is_taken(issuers: Issuers, issuer: OidcIssuer):
    now = int(time.time())
    for claims in ({"exp": now - 5}, {"nbf": now + 5}, {"iat": now + 5}, {"aud": ["other", AUDIENCE]}):
        assert (await issuers.caller(issuer.token(**claims))).owner == "bob"


async def test_a_type_may_be_left_out_or_be_that_of_access_tokens(issuers: Issuers, issuer: OidcIssuer):
    for typ in (None, "JWT", "jwt", "at+jwt", "application/at+jwt"):
        assert (await issuers.caller(issuer.token(typ=typ))).owner == "bob"


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


async def test_a_forged_token_is_refused_whatever_it_says_of_itself(issuers: Issuers, issuer: OidcIssuer, rsa: RSAKey):
    genuine = issuer.token()
    claims, stranger = claims_of(genuine), RSAKey.generate_key(2048, {"kid": "k1"})
    pem = rsa.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, _, signature = genuine.split(".")
    other_claims = unsigned({}, {**claims, "sub": "carol"}).split(".")[1]
    forged = [
        jwt.encode({"alg": "RS256", "kid": "k1"}, claims, stranger),
        jwt.encode({"alg": "RS256", "kid": "k1", "jwk": stranger.as_dict(private=False)}, claims, stranger),
        f"{header}.{other_claims}.{signature}",
        unsigned({"alg": "none", "kid": "k1"}, claims),
        unsigned({"alg": "None", "kid": "k1"}, claims, b"x"),
        unsigned({"kid": "k1"}, claims, b"x"),
        unsigned({"alg": "RS256", "kid": "k1", "crit": ["b64"], "b64": False}, claims, b"x"),
        genuine[:-4] + "AAAA",
        f"{header}.{genuine.split('.')[1]}.",
        "..",
        "a.b.c",
        "é.é.é",
        "x" * 20_000 + ".a.b",
    ]
    signed = unsigned({"alg": "HS256", "kid": "k1"}, claims).rpartition(".")[0]
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), "sha256")).decode().rstrip("=")
    forged.append(f"{signed}.{mac}")
    for token in forged:
        with pytest.raises(Unauthorized):
            await issuers.caller(token)
    assert (await issuers.caller(genuine)).owner == "bob"


async def test_only_the_pinned_algorithms_are_taken(expected: Expected, issuer: OidcIssuer):
    issuer.add("ec", ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"}))
    issuer.add("ed", OKPKey.generate_key("Ed25519", {"kid": "ed", "use": "sig"}))
    token = issuer.token(kid="ec", alg="ES256")
    with pytest.raises(Unauthorized, match="not pinned"):
        await ask(expected, token)
    assert (await ask(expected, token, algorithms=("ES256",))).owner == "bob"
    assert (await ask(expected, issuer.token(kid="ed", alg="Ed25519"), algorithms=("Ed25519",))).owner == "bob"
    with pytest.raises(Unauthorized, match="not pinned"):
        await ask(expected, issuer.token(alg="RS512"))


def signed_by(key: RSAKey, claims: dict[str, Any]) -> str:
    """A token signed with RS256 by this key, whatever the key says that it is for."""
    numbers = {name: value for name, value in key.as_dict(private=True).items() if name not in ("alg", "use", "kid")}
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, RSAKey.import_key(numbers))


async def test_a_key_is_used_only_for_what_it_is_for(expected: Expected, issuer: OidcIssuer):
    claims = claims_of(issuer.token())
    for says, about in (("does not publish", {"use": "enc"}), ("another algorithm", {"use": "sig", "alg": "PS256"})):
        key = RSAKey.generate_key(2048, {"kid": says, **about})
        issuer.add(says, key)
        with pytest.raises(Unauthorized, match=says):
            await ask(expected, signed_by(key, claims))
    issuer.add("oct", OctKey.generate_key(256, {"kid": "oct"}))
    with pytest.raises(Unauthorized, match="does not publish"):
        await ask(expected, issuer.token(kid="oct", alg="HS256"), algorithms=("RS256", "HS256"))


async def test_a_key_that_is_too_short_is_no_key(expected: Expected, issuer: OidcIssuer):
    with pytest.warns(SecurityWarning):
        issuer.add("short", RSAKey.generate_key(1024, {"kid": "short", "use": "sig"}))
    with pytest.raises(Unauthorized, match="does not publish"):
        await ask(expected, issuer.token(kid="short"))


async def test_without_a_kid_the_only_key_is_meant(expected: Expected, issuer: OidcIssuer, rsa: RSAKey):
    token = jwt.encode({"alg": "RS256"}, claims_of(issuer.token()), rsa)
    assert (await ask(expected, token)).owner == "bob"
    issuer.add("k2")
    with pytest.raises(Unauthorized, match="does not publish"):
        await ask(expected, token)


async def test_roles_are_what_the_claims_are_called_here(expected: Expected, issuer: OidcIssuer):
    names = {"grp-finance": "finance", "grp-sec": "security"}
    token = issuer.token(groups=["grp-finance", "grp-admins", 7], realm={"roles": ["grp-sec"]}, scp="grp-sec grp-x")
    for claim, roles in (("groups", ("finance",)), ("realm.roles", ("security",)), ("scp", ("security",)), ("no", ())):
        assert (await ask(expected, token, roles_claim=claim, roles=names)).roles == roles
    assert (await ask(expected, token, roles=names)).roles == ()


async def test_an_address_counts_only_verified_and_is_the_person_it_belongs_to(expected: Expected, issuer: OidcIssuer):
    emails = {"bob@example.com": "bob"}
    by_email = {"person_claim": "email", "emails": emails}
    assert (await ask(expected, issuer.token(email="Bob@Example.com", email_verified=True), **by_email)).owner == "bob"
    found = await ask(expected, issuer.token(email="eve@example.com", email_verified=True), **by_email)
    assert found.owner == "eve@example.com"
    for verified in (None, False, "true"):
        with pytest.raises(Unauthorized, match="not verified"):
            await ask(expected, issuer.token(email="bob@example.com", email_verified=verified), **by_email)


async def test_a_token_that_an_agent_holds_names_it(expected: Expected, issuer: OidcIssuer):
    assert (await ask(expected, issuer.token(azp="mail-bot"), agent_claim="azp")).agent == "mail-bot"


# --- where keys come from ------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_for_many_tokens_at_once(issuers: Issuers, issuer: OidcIssuer):
    found = await asyncio.gather(*(issuers.caller(issuer.token(jti=str(number))) for number in range(20)))
    assert {caller.owner for caller in found} == {"bob"}
    assert issuer.fetched == 1


async def test_a_new_key_is_found_and_made_up_ones_cost_the_issuer_nothing(
    expected: Expected, issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch
):
    one = Issuer(expected)
    now = [1000.0]
    monkeypatch.setattr(oidc, "monotonic", lambda: now[0])

    async def caller(token: str) -> str:
        return (await one.caller(token, peek(token), int(time.time()))).owner

    try:
        assert await caller(issuer.token()) == "bob"
        issuer.add("k2")
        rotated = issuer.token(kid="k2")
        now[0] += oidc.AGAIN_S
        assert await caller(rotated) == "bob"
        assert issuer.fetched == 2
        issuer.keys["made-up"] = issuer.keys["k1"]
        for _ in range(50):
            with pytest.raises(Unauthorized, match="does not publish"):
                await caller(issuer.token(kid="made-up"))
        assert issuer.fetched == 2
        now[0] += oidc.AGAIN_S
        with pytest.raises(Unauthorized, match="does not publish"):
            await caller(issuer.token(kid="made-up"))
        assert issuer.fetched == 3
        issuer.published.remove("k1")
        now[0] += oidc.FRESH_S + 1
        with pytest.raises(Unauthorized, match="does not publish"):  # a key that was taken back opens nothing
            await caller(issuer.token())
    finally:
        await one.close()


async def test_an_issuer_that_is_down_is_done_without_for_a_day(
    expected: Expected, issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch
):
    one, token = Issuer(expected), issuer.token()
    now = [1000.0]
    monkeypatch.setattr(oidc, "monotonic", lambda: now[0])
    try:
        issuer.status = 500
        with pytest.raises(UpstreamUnavailable, match="cannot be had"):
            await one.caller(token, peek(token), int(time.time()))
        issuer.status = 200
        now[0] += oidc.AGAIN_S
        assert (await one.caller(token, peek(token), int(time.time()))).owner == "bob"
        issuer.status = 500
        now[0] += oidc.STALE_S - 1
        assert (await one.caller(token, peek(token), int(time.time()))).owner == "bob"
        now[0] += oidc.AGAIN_S
        with pytest.raises(UpstreamUnavailable, match="cannot be had"):
            await one.caller(token, peek(token), int(time.time()))
    finally:
        await one.close()


@pytest.mark.parametrize(
    ("discovery", "says"),
    [
        ({"issuer": "https://other.example"}, "of another issuer"),
        ({"jwks_uri": "http://keys.example/jwks"}, "`jwks_uri`"),
        ({"jwks_uri": "file:///etc/passwd"}, "`jwks_uri`"),
        ({"jwks_uri": None}, "`jwks_uri`"),
    ],
)
async def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    expected: Expected, issuer: OidcIssuer, discovery: dict[str, Any], says: str
):
    issuer.discovery = discovery
    one = Issuer(expected)
    try:
        with pytest.raises(UpstreamUnavailable, match=says):
            await one.keys()
    finally:
        await one.close()
    assert issuer.fetched == 0


async def test_a_redirect_is_not_followed(expected: Expected, issuer: OidcIssuer):
    issuer.status, issuer.redirect = 302, "/jwks"
    one = Issuer(expected)
    try:
        with pytest.raises(UpstreamUnavailable, match="302"):
            await one.keys()
    finally:
        await one.close()
    assert issuer.fetched == 0


def test_an_issuer_over_https_does_not_lead_into_the_clear():
    secure = Issuer(Expected(name="c", issuer="https://id.example", audience="a", algorithms=("RS256",)))
    assert secure._may_fetch("https://keys.example/jwks")
    assert not secure._may_fetch("http://127.0.0.1/jwks")
