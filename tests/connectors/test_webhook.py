"""Signed webhooks, against a real server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from checkrein.connectors.webhook import Webhook, check_url, read_secret, signature
from checkrein.model import ConfigError, UpstreamUnavailable
from checkrein.web.server import BackgroundServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_the_specifications_example():
    made = signature([read_secret(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_replaced_both_sign():
    other = b"k" * 32
    both = signature([read_secret(SECRET), other], "a", 1, b"{}")
    assert both.split(" ") == [signature([read_secret(SECRET)], "a", 1, b"{}"), signature([other], "a", 1, b"{}")]


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_???", "whsec_" + base64.b64encode(b"short").decode()])
def test_a_secret_that_protects_nothing_is_refused_and_not_shown(text: str):
    with pytest.raises(ConfigError) as refused:
        read_secret(text)
    assert text in ("", "whsec_") or text not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("url", ["https://siem.example/in", "http://127.0.0.1:9/in", "http://localhost/in"])
def test_records_travel_by_https_or_stay_on_this_machine(url: str):
    check_url(url)


@pytest.mark.parametrize(
    "url",
    ["http://siem.example/in", "ftp://siem.example", "https://user:pw@siem.example", "siem.example", "https://[", ""],
)
def test_other_addresses_are_refused_and_not_shown(url: str):
    with pytest.raises(ConfigError) as refused:
        check_url(url)
    assert "pw" not in str(refused.value)


class Taker:
    """A destination: answers what it is told to, and remembers."""

    def __init__(self) -> None:
        self.status, self.headers = 200, list[tuple[bytes, bytes]]()
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.silent = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        self.got.append(({name.decode(): value.decode() for name, value in scope["headers"]}, message["body"]))
        if self.silent:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture
async def hook(taker: Taker) -> AsyncIterator[Webhook]:
    with BackgroundServer(taker) as server:
        hook = Webhook(f"{server.url}/in", [read_secret(SECRET)], timeout_s=0.5)
        yield hook
        await hook.close()


async def test_what_arrives_is_signed_over_id_time_and_body(hook: Webhook, taker: Taker):
    assert (await hook.post("id-1", b'{"a":1}', "application/cloudevents+json", 7)).status == 200
    headers, body = taker.got[0]
    assert body == b'{"a":1}'
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("id-1", "7")
    assert headers["webhook-signature"] == signature([read_secret(SECRET)], "id-1", 7, body)
    assert headers["content-type"] == "application/cloudevents+json"


async def test_a_redirect_is_not_followed(hook: Webhook, taker: Taker):
    taker.status, taker.headers = 307, [(b"location", b"http://127.0.0.1:1/elsewhere")]
    assert (await hook.post("id", b"{}", "application/json", 7)).status == 307
    assert len(taker.got) == 1


@pytest.mark.parametrize(("text", "seconds"), [(b"120", 120), (b"soon", 0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0)])
async def test_retry_after_is_heard(hook: Webhook, taker: Taker, text: bytes, seconds: int):
    taker.status, taker.headers = 429, [(b"retry-after", text)]
    assert (await hook.post("id", b"{}", "application/json", 7)).retry_after_s == seconds


async def test_one_that_never_answers_fails_in_time(hook: Webhook, taker: Taker):
    taker.silent = True
    with pytest.raises(UpstreamUnavailable, match=r"no answer within 0\.5 s"):
        await hook.post("id", b"{}", "application/json", 7)


async def test_one_that_is_not_there_fails_without_telling_its_address():
    hook = Webhook("http://127.0.0.1:1/secret-path", [], timeout_s=5)
    with pytest.raises(UpstreamUnavailable) as failed:
        await hook.post("id", b"{}", "application/json", 7)
    assert "secret-path" not in str(failed.value)
    await hook.close()
