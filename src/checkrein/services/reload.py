"""Policy versions while a server runs: what is offered is proved before it decides anything, else the old one stays.

    offered -> verified -> read strictly -> its tests pass -> compiled, and checked against the official engine
            -> kept and recorded (`policy.changed`) -> swapped in, between two requests

A version that fails anywhere on that way is recorded once (`policy.rejected`) and told in `warnings` until something
good is offered; the active version goes on deciding. A source is looked at again and again, and content is taken only
when two looks in a row find the same: a folder that is half written is not a version.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

import msgspec

from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation, question
from checkrein.decide.evaluate import redact_problems
from checkrein.model import BadRequest, CheckreinError, PolicyInvalid, StoreUnavailable
from checkrein.model.json import JsonObject
from checkrein.policy.bundle import Bundle, digest_of
from checkrein.policy.cases import run
from checkrein.policy.selfcheck import Probe, disagreements, probes
from checkrein.ports import RecordQuery, Store, Unit
from checkrein.services import records
from checkrein.services.pdp import Asked, Pdp

log = logging.getLogger("checkrein.policy")

CHANGED, REJECTED = "policy.changed", "policy.rejected"
#: problems of a rejected version that the log and `/readyz` name
TOLD_PROBLEMS = 3


class Edition(msgspec.Struct, frozen=True):
    """The files of one version. A folder has no serial (0) and nobody's signature."""

    files: Mapping[str, bytes]
    serial: int = 0
    signers: tuple[str, ...] = ()


class Offer(Protocol):
    """What lay in a source at one moment; reading it again is not needed."""

    @property
    def fingerprint(self) -> str:
        """Tells one content from another."""

    def open(self) -> Edition:
        """Verify and unpack it; raises `CheckreinError`."""

    def keep(self) -> None:
        """Remember it as the last good one, where the source has such a thing. Raises `OSError`."""


class Source(Protocol):
    """Where versions come from."""

    def look(self) -> Offer:
        """What lies there now; raises `CheckreinError` if nothing can be read."""

    def last_good(self) -> Offer | None:
        """The last one that was kept."""


class Version(msgspec.Struct, frozen=True):
    """A bundle that may decide. `fingerprint` is that of its offer, empty if it is not what the source offers."""

    bundle: Bundle
    fingerprint: str = ""
    serial: int = 0
    signers: tuple[str, ...] = ()

    def detail(self) -> dict[str, object]:
        """What a record says of it."""
        signed = {"serial": self.serial, "signers": list(self.signers)} if self.serial else {}
        return {"bundle": self.bundle.digest, **signed}


class Replaceable(Protocol):
    """What takes a new version in one step: a decision point, or what stands before one."""

    def replace(self, bundle: Bundle) -> None: ...


#: a decision point for trying a bundle out: nothing that it decides is recorded
Trial = Callable[[Bundle], Pdp]


def read_bundle(files: Mapping[str, bytes]) -> Bundle:
    """The policies, manifests and tests of a folder, strictly checked; raises `PolicyInvalid`."""
    bundle = Bundle.from_files(files)
    if problems := redact_problems(bundle):
        raise PolicyInvalid(
            f"a policy redacts what nothing finds: {problems[0]}",
            problems=problems,
            hint="name `pii`, `secret` or a class below them, such as `pii.email`",
        )
    return bundle


def prove(bundle: Bundle, trial: Trial) -> None:
    """Run the bundle's tests, and check its evaluator against the official engine; raises `PolicyInvalid`."""
    pdp = trial(bundle)
    results = run(bundle.cases, lambda request, now_us: pdp.decide(Asked(request), now_us=now_us))
    failures = [f"{r.case.place}: `{r.case.name}`: {failure}" for r in results for failure in r.failures]
    if failures:
        count = sum(not result.passed for result in results)
        raise PolicyInvalid(
            f"{count} of {len(results)} policy tests fail, the first: {failures[0]}",
            problems=tuple(failures),
            hint="run `checkrein test`",
        )
    # seeded by the bundle, so that what is found once is found again
    sampled = probes(bundle, random.Random(bundle.digest))  # noqa: S311 - nothing here is secret
    problems = disagreements(bundle.policies, (*_asked_in_tests(bundle), *sampled))
    if problems:
        raise PolicyInvalid(
            f"the compiled policies decide otherwise than the official engine: {problems[0]}",
            problems=problems,
            hint="report it with the policies that are named; this version is not used",
        )


def _asked_in_tests(bundle: Bundle) -> list[Probe]:
    """What the policies are asked in the bundle's own tests; some requests never come as far as the policies."""
    classifier = Classifier(bundle.manifests)
    found = []
    for case in bundle.cases:
        resolved = bundle.manifests.resolve(case.request.action.name)
        try:
            classified = classifier.classify(case.request, {})
            asked = question(case.request, resolved, Situation(now_us=case.now_us), classified, {})
        except BadRequest:
            continue
        found.append(Probe.of(asked.principal, asked.action, asked.resource, asked.context, asked.entities))
    return found


def _load(edition: Edition, trial: Trial) -> Version:
    """From verified files to a version that may decide; raises `PolicyInvalid`."""
    bundle = read_bundle(edition.files)
    prove(bundle, trial)
    return Version(bundle, serial=edition.serial, signers=edition.signers)


def first(source: Source, trial: Trial) -> Version:
    """The version to start with: what is offered or, if that will not do, the last good one.

    Raises `CheckreinError`, about what is offered, if neither will do.
    """
    try:
        offer = source.look()
        version = _load(offer.open(), trial)
        offer.keep()
    except CheckreinError as error:
        last = source.last_good()
        if last is None:
            raise
        try:
            return _load(last.open(), trial)
        except CheckreinError as worse:
            raise error from worse
    return msgspec.structs.replace(version, fingerprint=offer.fingerprint)


class Reloader:
    """Takes new versions from a source into a decision point. One thread polls; any thread reads `warnings`."""

    def __init__(self, into: Replaceable, store: Store, source: Source, trial: Trial, active: Version) -> None:
        self._into = into
        self._store = store
        self._source = source
        self._trial = trial
        self._active = active
        self._settled = active.fingerprint
        self._seen = ""
        self._ready: Version | None = None
        self._warnings: tuple[str, ...] = ()

    def warnings(self) -> tuple[str, ...]:
        """What is wrong with what the source offers, while an older version decides."""
        return self._warnings

    def prove(self) -> None:
        """Prove the version that starts as any later one will be; raises `PolicyInvalid`. A bundle's was already."""
        if not self._active.serial:
            prove(self._active.bundle, self._trial)

    def begin(self) -> None:
        """Record the version that starts, unless the last record says that it was active before."""
        newest = RecordQuery(kinds=(CHANGED,), newest_first=True, limit=1)
        last = next(iter(self._store.records(newest)), None)
        before = str(_detail(last.body).get("bundle", "")) if last else ""
        if before != self._active.bundle.digest:
            self._record(CHANGED, {**self._active.detail(), "before": before})

    def poll(self) -> None:
        """Look at the source once, and take what two looks in a row found."""
        try:
            offer = self._source.look()
        except CheckreinError as error:
            if self._is_new(f"unreadable: {error}"):
                self._reject("", error)
            return
        if not self._is_new(offer.fingerprint):
            return
        digest = ""
        try:
            if self._ready is None or self._ready.fingerprint != offer.fingerprint:
                edition = offer.open()
                digest = digest_of(edition.files)
                version = _load(edition, self._trial)
                self._ready = msgspec.structs.replace(version, fingerprint=offer.fingerprint)
            self._take(offer, self._ready)
        except (StoreUnavailable, OSError) as error:
            self._warn(f"a new version waits: {error}")  # nothing is wrong with it: the next look tries again
        except CheckreinError as error:
            self._reject(digest, error)
        except Exception as error:
            log.exception("loading a policy version failed")
            self._reject(digest, PolicyInvalid(f"loading it failed: {type(error).__name__}"))

    def _is_new(self, fingerprint: str) -> bool:
        """Whether this is to be handled: neither active nor handled before, and the same at two looks in a row."""
        twice, self._seen = self._seen == fingerprint, fingerprint
        if fingerprint == self._active.fingerprint:
            self._settled = fingerprint
            if self._warnings:
                log.info("policy %s stays active; what was offered in its place is gone", self._active.bundle.digest)
                self._warnings = ()
        return twice and fingerprint != self._settled

    def _take(self, offer: Offer, version: Version) -> None:
        """Keep, record, swap: if one step fails, the same offer starts again from the first."""
        before = self._active.bundle.digest
        offer.keep()
        if version.detail() != self._active.detail():
            self._record(CHANGED, {**version.detail(), "before": before})
        self._into.replace(version.bundle)
        self._active, self._settled, self._ready = version, version.fingerprint, None
        self._warnings = ()
        log.info("policy %s is active, before it was %s", version.bundle.digest, before)

    def _reject(self, digest: str, error: CheckreinError) -> None:
        """`digest` is that of the bundle, empty where nobody vouches for it."""
        problems = error.problems if isinstance(error, PolicyInvalid) and error.problems else (str(error),)
        one_line = " ".join(problems[0].split())
        before = self._active.bundle.digest
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        try:
            self._record(
                REJECTED,
                {"bundle": digest, "before": before, "problems": len(problems), "first": records.cut(one_line)},
            )
        except StoreUnavailable as unavailable:
            self._warn(f"a new version is rejected, which cannot be recorded: {unavailable}")
            return
        self._settled = self._seen
        told = "; ".join(" ".join(problem.split()) for problem in problems[:TOLD_PROBLEMS])
        more = "; `checkrein check` names the rest" if len(problems) > TOLD_PROBLEMS else ""
        self._warn(f"the version offered is rejected, {before} stays active; {count}: {told}{more}")

    def _warn(self, text: str) -> None:
        warnings = (f"policy: {text}",)
        news = warnings != self._warnings
        self._warnings = warnings  # before the log, so that who reads the log finds it in `/readyz`
        if news:
            log.warning("%s", *warnings)

    def _record(self, kind: str, detail: JsonObject) -> None:
        self._store.commit(Unit(drafts=(records.admin(kind, "system", detail),))).result()


def _detail(body: Mapping[str, object]) -> Mapping[str, object]:
    detail = body.get("detail", {})
    return detail if isinstance(detail, Mapping) else {}


class Watch:
    """Looks every second or so, in a thread of its own, while the block runs; `nudge` looks at once."""

    def __init__(self, look: Callable[[], object], *, every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="checkrein-reload", daemon=True)

    def nudge(self) -> None:
        self._wake.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A version that is just being loaded is loaded to its end, so that no record is written to a closed store."""
        self._ended = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            try:
                self._look()
            except BaseException:  # a panic of the official engine is no Exception, and must not end the watch unseen
                log.exception("looking for what is new failed")
            self._wake.wait(self._every_s)
            self._wake.clear()
