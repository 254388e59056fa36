"""What a deployment knows by itself: the time, who has which roles, who and what there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from checkrein.config import Config
from checkrein.model import Request, Subject


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


class ConfiguredFacts:
    """Roles of the people in `checkrein.toml`."""

    def __init__(self, config: Config) -> None:
        self._people = config.people

    def roles(self, subject: Subject) -> tuple[str, ...]:
        person = self._people.get(subject.id) if subject.type == "user" else None
        return person.roles if person else ()

    def labels(self, request: Request) -> tuple[str, ...]:
        return ()


class ConfiguredNames:
    """Who and what `checkrein.toml` names; `models` are those that go to an upstream."""

    def __init__(self, config: Config, models: Callable[[], Iterable[str]]) -> None:
        self._subjects: dict[str, Iterable[str]] = {"user": config.people, "agent": config.agents}
        self._resources = config.authzen.resources
        self._models = models

    def subjects(self, type: str) -> Iterable[str]:
        return self._subjects.get(type, ())

    def resources(self, type: str) -> Iterable[str]:
        yield from self._resources.get(type, ())
        if type == "model":
            yield from self._models()
