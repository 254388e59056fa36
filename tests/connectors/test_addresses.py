"""A name leads to public addresses or into listed networks; what is written out is listed by that."""

from __future__ import annotations

import pytest
from aiohttp import web

from checkrein.connectors import addresses
from checkrein.connectors.addresses import Resolver, admits, networks
from checkrein.connectors.http import HttpUpstream
from checkrein.model import ConfigError, UpstreamUnreachable

INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - an address that is refused
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1%eth0",
    "fd00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "not an address",
]


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_does_not_lead_inside(address: str):
    assert not admits("api.example.com", address, ())


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_a_name_leads_to_public_addresses(address: str):
    assert admits("api.example.com", address, ())


def test_a_listed_network_is_open_and_no_other():
    listed = networks(["10.0.0.0/8", "fd00::/8"])
    assert admits("model.internal", "10.9.9.9", listed)
    assert admits("model.internal", "::ffff:10.9.9.9", listed)
    assert admits("model.internal", "fd00::7", listed)
    assert not admits("model.internal", "192.168.0.1", listed)


def test_localhost_is_this_machine_and_nothing_else():
    assert admits("localhost", "127.0.0.1", ())
    assert admits("model.localhost", "::1", ())
    assert not admits("localhost", "10.0.0.1", ())
    assert not admits("localhost.example.com", "127.0.0.1", ())


def test_an_address_that_is_written_out_is_listed_by_that_but_for_link_local_ones():
    assert admits("10.0.0.1", "10.0.0.1", ())
    with pytest.raises(ConfigError, match="link-local"):
        HttpUpstream("cloud", "http://169.254.169.254/v1")
    with pytest.raises(ConfigError, match="link-local"):
        HttpUpstream("cloud", "http://[::ffff:169.254.169.254]/v1")
    HttpUpstream("cloud", "http://169.254.169.254/v1", listed=("169.254.169.254/32",))


async def test_an_upstream_whose_name_leads_inside_is_not_called(monkeypatch: pytest.MonkeyPatch):
    calls = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]

    async def rebound(self: object, host: str, port: int = 0, family: object = None) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 6, "flags": 4}]

    monkeypatch.setattr(addresses.ThreadedResolver, "resolve", rebound)
    rebinding = HttpUpstream("bank", f"http://bank.example:{port}")
    listed = HttpUpstream("bank", f"http://bank.example:{port}", listed=("127.0.0.0/8",))
    try:
        with pytest.raises(UpstreamUnreachable, match="no public address") as raised:
            await rebinding.send("/chat/completions", b"{}", {})
        assert "networks" in raised.value.hint
        assert calls == 0
        reply = await listed.send("/chat/completions", b"{}", {})
        await reply.close()
        assert (reply.status, calls) == (200, 1)
    finally:
        await rebinding.close()
        await listed.close()
        await runner.cleanup()


async def test_of_several_addresses_only_the_public_ones_are_used(monkeypatch: pytest.MonkeyPatch):
    async def mixed(self: object, host: str, port: int = 0, family: object = None) -> list[dict[str, object]]:
        return [{"host": address} for address in ("10.0.0.1", "1.1.1.1")]

    monkeypatch.setattr(addresses.ThreadedResolver, "resolve", mixed)
    assert [one["host"] for one in await Resolver(()).resolve("api.example.com")] == ["1.1.1.1"]
