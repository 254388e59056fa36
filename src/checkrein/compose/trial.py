"""Decision points without a store: what `check`, `test`, `explain`, `diff` and gates ask. Nothing is recorded."""

from __future__ import annotations

from pathlib import Path

from checkrein import config as configuration
from checkrein.compose.facts import ConfiguredFacts, SystemClock
from checkrein.config import Config
from checkrein.model import Decision, Request
from checkrein.policy.bundle import Bundle
from checkrein.policy.cases import CaseResult
from checkrein.policy.cases import run as run_policy_tests
from checkrein.policy.explain import PolicyExplained
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.reload import Trial, prove, read_bundle
from checkrein.services.turns import Turns
from checkrein.storage.folder import read_folder


def load_bundle(folder: Path | str) -> Bundle:
    """The policies, manifests and tests of a folder, strictly checked; raises `PolicyInvalid`."""
    return read_bundle(read_folder(Path(folder)))


def trial(config: Config) -> Trial:
    facts = ConfiguredFacts(config)
    return lambda bundle: Pdp(bundle, facts, SystemClock(), environment=config.environment, turns=Turns())


def dry_pdp(folder: Path | str) -> Pdp:
    """A decision point on a folder, without a store: nothing is recorded, no approval is opened."""
    folder = Path(folder)
    config = configuration.load(folder).config
    return trial(config)(load_bundle(folder))


def production_pdp(config: Config, bundle: Bundle, environment: str) -> Pdp:
    """A decision point on a bundle, as it would decide in this environment. Nothing it decides is recorded."""
    return Pdp(bundle, ConfiguredFacts(config), SystemClock(), environment=environment, turns=Turns())


def proved_files(folder: Path | str) -> dict[str, bytes]:
    """The files of a folder whose policies a server would take: strictly read, tested, checked."""
    files = read_folder(Path(folder))
    prove(read_bundle(files), trial(configuration.load(Path(folder)).config))
    return files


def explain_request(request: Request, folder: Path | str) -> tuple[Decision, tuple[PolicyExplained, ...]]:
    """The decision of a folder on a request, and what each policy said; empty if policies could not be asked."""
    pdp = dry_pdp(folder)
    return pdp.decide(Asked(request)), pdp.explain(request)


def run_cases(folder: Path | str) -> tuple[CaseResult, ...]:
    """Run the policy tests of a folder; nothing is recorded."""
    pdp = dry_pdp(folder)
    return run_policy_tests(pdp.bundle.cases, lambda request, now_us: pdp.decide(Asked(request), now_us=now_us))


def unfired(folder: Path | str) -> tuple[str, ...]:
    """The policies that no policy test of the folder makes fire, by id: each is a rule nobody has tried."""
    pdp = dry_pdp(folder)
    fired = {
        told.id
        for case in pdp.bundle.cases
        for told in pdp.explain(case.request, now_us=case.now_us)
        if told.state == "satisfied"
    }
    return tuple(policy.id for policy in pdp.bundle.policies.policies if policy.id not in fired)
