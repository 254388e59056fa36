"""Mail through a real server: encryption, logins, and what its answers mean."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from checkrein.connectors.smtp import SmtpChannel, Tls
from checkrein.model import UpstreamUnavailable
from checkrein.ports import Notice

NOTICE = Notice(to="bob@example.com", subject="alice asks", lines=("one", "zwei: ü"), link="https://cr.example/x")


class Inbox:
    """Keeps what a real mail server took."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.got.append(envelope.content)
        return self.answer


@asynccontextmanager
async def serving(inbox: Inbox, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(inbox, loop=loop, **options), "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def mailer(port: int, **given: Any) -> SmtpChannel:
    return SmtpChannel("127.0.0.1", port, sender="checkrein@example.com", timeout_s=10, **given)


async def test_a_message_arrives_whole(server_side: ssl.SSLContext, certificate: Path):
    inbox = Inbox()
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(inbox, tls_context=server_side, require_starttls=True) as port:
        assert (await mailer(port, context=trusting).tell("rec_1", (NOTICE,), 0)).status == 200
    (got,) = inbox.got
    assert b"Subject: [checkrein] alice asks" in got
    assert b"https://cr.example/x" in got
    assert b"Message-ID: <rec_1." in got


async def test_encryption_from_the_first_byte(server_side: ssl.SSLContext, certificate: Path):
    inbox = Inbox()
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(inbox, tls=server_side) as port:
        assert (await mailer(port, tls=Tls.TLS, context=trusting).tell("rec_1", (NOTICE,), 0)).status == 200
    assert len(inbox.got) == 1


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.TLS])
async def test_a_server_that_nobody_vouches_for_gets_nothing(server_side: ssl.SSLContext, tls: Tls):
    inbox = Inbox()
    options: dict[str, Any] = {"tls": server_side} if tls is Tls.TLS else {"tls_context": server_side}
    async with serving(inbox, **options) as port:
        with pytest.raises(UpstreamUnavailable, match="SSLCertVerificationError"):
            await mailer(port, tls=tls).tell("rec_1", (NOTICE,), 0)
    assert not inbox.got


async def test_a_server_without_encryption_gets_nothing():
    inbox = Inbox()
    async with serving(inbox) as port:
        with pytest.raises(UpstreamUnavailable, match="SMTPNotSupportedError"):
            await mailer(port).tell("rec_1", (NOTICE,), 0)
    assert not inbox.got


def only(user: str, password: str) -> Callable[..., AuthResult]:
    def check(server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (user.encode(), password.encode()), handled=False)

    return check


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_the_login_is_sent_and_never_shown():
    inbox = Inbox()
    async with serving(inbox, authenticator=only("cr", "s3cret"), auth_require_tls=False, auth_required=True) as port:
        right = mailer(port, tls=Tls.NONE, user="cr", password="s3cret")
        assert (await right.tell("rec_1", (NOTICE,), 0)).status == 200
        with pytest.raises(UpstreamUnavailable, match="does not take the login") as wrong:
            await mailer(port, tls=Tls.NONE, user="cr", password="gu3ss").tell("rec_1", (NOTICE,), 0)
        assert "gu3ss" not in repr(wrong.value.__dict__) + str(wrong.value)
    assert len(inbox.got) == 1


@pytest.mark.parametrize(("answer", "status"), [("554 no", 422), ("250 OK", 200)])
async def test_what_it_answers_for_good(answer: str, status: int):
    inbox = Inbox()
    inbox.answer = answer
    async with serving(inbox) as port:
        assert (await mailer(port, tls=Tls.NONE).tell("rec_1", (NOTICE,), 0)).status == status


async def test_what_it_answers_for_now_is_tried_later():
    inbox = Inbox()
    inbox.answer = "451 later"
    async with serving(inbox) as port:
        with pytest.raises(UpstreamUnavailable, match="451"):
            await mailer(port, tls=Tls.NONE).tell("rec_1", (NOTICE,), 0)


async def test_an_address_that_is_none_is_refused_and_the_others_are_told():
    inbox = Inbox()
    odd = [Notice(to=to, subject="s", lines=()) for to in ("", "bob\n@example.com", "not an address", "ü@example.com")]
    async with serving(inbox) as port:
        channel = mailer(port, tls=Tls.NONE)
        assert (await channel.tell("rec_1", (*odd, NOTICE), 0)).status == 200
        assert (await channel.tell("rec_2", (odd[1],), 0)).status == 422
    assert any(b"To: bob@example.com" in got for got in inbox.got)
