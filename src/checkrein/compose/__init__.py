"""Wires everything; the only place that knows all rooms.

`system`   everything that runs on one governance folder and one store: `open_system` is the one door
`serving`  its HTTP application
`trial`    decision points without a store
`records`  the ledger and the payloads, while the policies may be broken
`terms`    what `checkrein.toml` says, as services and connectors are built with
`outside`  the ways out of the house, each with its secret
`facts`    the time, and who has which roles

Not here: anything that decides or does something by itself. Start with `system`.
"""

from checkrein.compose.facts import ConfiguredFacts, SystemClock
from checkrein.compose.outside import answerer, channel, credential, destinations, tracer, upstream
from checkrein.compose.records import DATA, open_payloads, verify_ledger
from checkrein.compose.system import System, open_system
from checkrein.compose.terms import (
    at_root,
    configured_witnesses,
    expected_tokens,
    gateway_configs,
    gateway_terms,
    quotas,
    tariff,
)
from checkrein.compose.trial import (
    dry_pdp,
    explain_request,
    load_bundle,
    production_pdp,
    proved_files,
    run_cases,
    unfired,
)

__all__ = [
    "DATA",
    "ConfiguredFacts",
    "System",
    "SystemClock",
    "answerer",
    "at_root",
    "channel",
    "configured_witnesses",
    "credential",
    "destinations",
    "dry_pdp",
    "expected_tokens",
    "explain_request",
    "gateway_configs",
    "gateway_terms",
    "load_bundle",
    "open_payloads",
    "open_system",
    "production_pdp",
    "proved_files",
    "quotas",
    "run_cases",
    "tariff",
    "tracer",
    "unfired",
    "upstream",
    "verify_ledger",
]
