"""What `checkrein.toml` says, in the values that services and connectors are built with."""

from __future__ import annotations

import msgspec

from checkrein.config import Config, UpstreamConfig
from checkrein.connectors.metering import Tariff
from checkrein.connectors.tokens import Expected
from checkrein.connectors.witness import HttpWitness
from checkrein.flow.quota import Price as NanoPrice
from checkrein.flow.quota import Quota
from checkrein.ledger.checkpoint import COSIGNATURE, VerifierKey
from checkrein.model import Permission
from checkrein.model.target import Target
from checkrein.model.usage import NANO
from checkrein.services.reconcile import Terms
from checkrein.services.witness import Witness


def quotas(config: Config) -> dict[Target, Quota]:
    """The limits of `checkrein.toml`, by whom they are for."""
    found = {}
    for name, given in config.limits.items():
        what, _, named = name.partition(":")
        values = msgspec.structs.asdict(given)
        for spend in ("spend_per_day", "spend_per_month"):
            values[spend] = None if values[spend] is None else _nano(values[spend])
        found[Target.parse(what, named)] = Quota(**values)
    return found


def tariff(given: UpstreamConfig) -> Tariff:
    """What an upstream takes for its tokens."""
    prices = {name: NanoPrice(_nano(price.price_in), _nano(price.price_out)) for name, price in given.prices.items()}
    return Tariff(NanoPrice(_nano(given.price_in or 0), _nano(given.price_out or 0)), prices, given.output_tokens)


def _nano(money: float) -> int:
    return round(money * NANO)


def gateway_terms(config: Config) -> dict[str, Terms]:
    """What is asked of each configured agent gateway."""
    return {
        name: Terms(heartbeat_s=given.heartbeat_timeout, witness_s=given.witness_timeout, quarantine=given.quarantine)
        for name, given in gateway_configs(config).items()
    }


def gateway_configs(config: Config) -> dict[str, UpstreamConfig]:
    """The upstreams that are agent gateways."""
    return {name: given for name, given in config.upstreams.items() if given.kind == "openclaw"}


def at_root(given: UpstreamConfig) -> UpstreamConfig:
    """The same server, above the `/v1` of its OpenAI endpoints."""
    return msgspec.structs.replace(given, base_url=given.base_url.rstrip("/").removesuffix("/v1"))


def expected_tokens(config: Config) -> list[Expected]:
    """What the tokens of each configured issuer must hold."""
    emails = {person.email.casefold(): name for name, person in config.people.items() if person.email}
    return [
        Expected(
            name=name,
            issuer=given.issuer,
            audience=given.audience,
            algorithms=given.algorithms,
            types=given.types,
            person_claim=given.person,
            emails=emails,
            roles_claim=given.roles_claim,
            roles=given.roles,
            agent_claim=given.agent,
            permissions=tuple(map(Permission, given.can)),
            leeway_s=given.leeway,
        )
        for name, given in config.oidc.items()
    ]


def configured_witnesses(config: Config) -> list[Witness]:
    """The witnesses of `checkrein.toml`, each with the way to it."""
    return [
        Witness(name, VerifierKey.parse(given.vkey, COSIGNATURE), HttpWitness(name, given.url))
        for name, given in config.witnesses.items()
    ]
