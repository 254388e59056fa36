"""What a deployment knows by itself: the time, and who has which roles."""

from __future__ import annotations

import time

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
