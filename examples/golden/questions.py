"""Writes questions.jsonl: what a model is asked, and what a good answer is.

Every answer follows from what the question itself says, so that anybody can check the labels, and nothing is drawn by
lot. The texts are invented. Run it again after a change: python examples/golden/questions.py
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

from texts import NOTICES, TICKETS

Case = dict[str, object]
GOODS = (
    ("desk lamps", 2450), ("monitor arms", 8900), ("keyboards", 5995), ("chairs", 21900), ("whiteboards", 13250),
    ("cables", 745), ("headsets", 7490), ("footrests", 3315), ("plants", 1880), ("notebooks", 420),
    ("projectors", 48900),
)  # fmt: skip
PEOPLE = ("alice", "bob", "carol", "dan", "erin", "frank", "grace", "heidi")
ROOMS = ("Ada", "Turing", "Hopper", "Noether", "Lovelace")
SHELVES = ("plums", "apples", "cherries", "figs", "grapes", "pears", "lemons", "quinces", "melons", "dates", "kiwis")
#: name, in the smaller unit, how many of the smaller make one
UNITS = (
    ("kilometres", "metres", 1000), ("hours", "minutes", 60), ("weeks", "days", 7), ("kilograms", "grams", 1000),
    ("days", "hours", 24),
)  # fmt: skip


def notices() -> Iterator[Case]:
    """Something is to be found in a notice of four sentences."""
    for topic, facts in NOTICES.items():
        text = " ".join(sentence for sentence, _, _ in facts)
        for number, (_, question, wanted) in enumerate(facts, 1):
            prompt = f"Answer from this notice. {topic}: {text}\nQuestion: {question}"
            yield {"id": f"notice-{topic.lower().replace(' ', '-')}-{number}", "prompt": prompt, "answer": {
                "contains": [wanted]}}  # fmt: skip


def orders() -> Iterator[Case]:
    """Sums of two or three lines, in cents so that they are exact."""
    for number in range(60):
        lines = [(1 + (number * 7 + at * 3) % 9, *GOODS[(number * (at + 1) + at * 4) % len(GOODS)]) for at in range(3)]
        lines = lines[: 2 + number % 2]
        told = ", ".join(f"{count} {name} at {cents / 100:.2f}" for count, name, cents in lines)
        total = sum(count * cents for count, _, cents in lines)
        prompt = f"Add up this order: {told}. Give the total alone, with two decimals."
        yield {"id": f"order-{number + 1}", "prompt": prompt, "answer": {"exact": f"{total / 100:.2f}"}}


def tickets() -> Iterator[Case]:
    """One word out of four."""
    for label, texts in TICKETS.items():
        for number, text in enumerate(texts, 1):
            prompt = f"Sort this ticket. Answer with one word: billing, access, outage or feature.\nTicket: {text}"
            yield {"id": f"ticket-{label}-{number}", "prompt": prompt, "answer": {"exact": label}}


def meetings() -> Iterator[Case]:
    """A sentence becomes JSON of exactly these members."""
    for number in range(40):
        day = dt.date(2026, 1, 5) + dt.timedelta(days=number * 9)
        found = {
            "host": PEOPLE[number % len(PEOPLE)],
            "room": ROOMS[number % len(ROOMS)],
            "date": day.isoformat(),
            "minutes": 15 * (1 + number % 6),
        }
        said = f"{day.day} {day:%B %Y}"
        text = (
            f"On {said} {found['host']} meets us in room {found['room']} for {found['minutes']} minutes."
            if number % 2
            else f"Room {found['room']} is taken by {found['host']} for {found['minutes']} minutes on {said}."
        )
        prompt = f"Write host, room, date (YYYY-MM-DD) and minutes as one JSON object.\nText: {text}"
        schema = {
            "type": "object",
            "properties": {name: {"const": value} for name, value in found.items()},
            "required": list(found),
            "additionalProperties": False,
        }
        yield {"id": f"meeting-{number + 1}", "prompt": prompt, "answer": {"schema": schema}}


def days() -> Iterator[Case]:
    """Days between two dates, over months and a leap day, and weekdays."""
    for number in range(40):
        first = dt.date(2023, 11, 20) + dt.timedelta(days=number * 37)
        if number % 2:
            prompt = f"Which weekday is {first.isoformat()}? Answer with its English name."
            yield {"id": f"weekday-{number + 1}", "prompt": prompt, "answer": {"regex": rf"(?i)^{first:%A}\.?$"}}
            continue
        last = first + dt.timedelta(days=5 + number * 11)
        prompt = f"How many days lie between {first.isoformat()} and {last.isoformat()}? Answer with the number."
        yield {"id": f"days-{number + 1}", "prompt": prompt, "answer": {"exact": str((last - first).days)}}


def lists() -> Iterator[Case]:
    """A list in order."""
    for number in range(20):
        words = [SHELVES[(number + at * (2 + number % 4)) % len(SHELVES)] for at in range(5)]
        prompt = f"Put these into alphabetical order, with commas between them: {', '.join(words)}"
        yield {"id": f"list-{number + 1}", "prompt": prompt, "answer": {"exact": ", ".join(sorted(words))}}


def units() -> Iterator[Case]:
    for number in range(20):
        large, small, factor = UNITS[number % len(UNITS)]
        count = 3 + number * 2
        prompt = f"How many {small} are {count} {large}? Answer with the number."
        yield {"id": f"unit-{number + 1}", "prompt": prompt, "answer": {"regex": rf"^{count * factor}\b"}}


def cases() -> list[Case]:
    families = (notices, orders, tickets, meetings, days, lists, units)
    return [case for family in families for case in family()]


if __name__ == "__main__":
    lines = [json.dumps(case, separators=(", ", ": ")) for case in cases()]
    Path(__file__).with_suffix(".jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} questions")
