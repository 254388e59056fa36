"""Stand-ins for a model, and they say so: rules that answer the golden questions, well or hastily.

    PYTHONPATH=examples/golden checkrein gate run --champion python:agents:careful --challenger python:agents:hasty \
        --golden examples/golden --dir governance
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable

Messages = list[dict[str, str]]
_MONTHS = [dt.date(2026, month, 1).strftime("%B") for month in range(1, 13)]
#: words that tell what a ticket is about, the surest first
_TICKET_WORDS = {
    "feature": ("nice", "could you", "wish", "please support", "please add", "consider", "would like", "could the"),
    "outage": ("down", "error", "time out", "crash", "loads", "unreachable", "blank"),
    "access": ("password", "login", "log in", "account", "phone", "sign-on"),
    "billing": ("charge", "invoice", "price", "bill", "tax", "payment", "discount"),
}


def careful(messages: Messages) -> str:
    """Reads everything and works it out."""
    return _answer(messages[-1]["content"])


def rewritten(messages: Messages) -> str:
    """Another version of the same quality: it says more around what it found in notices."""
    text = messages[-1]["content"]
    found = _answer(text)
    return f"The notice says: {found}" if text.startswith("Answer from this notice") else found


def hasty(messages: Messages) -> str:
    """A worse version: of a notice it reads only the first half, and of an order only the first line."""
    text = messages[-1]["content"]
    if text.startswith("Answer from this notice"):
        head, _, question = text.partition("\nQuestion: ")
        return _notice(f"{head[: len(head) // 2]}.\nQuestion: {question}")
    if text.startswith("Add up"):
        return _order(text.partition(",")[0])
    return _answer(text)


def _answer(text: str) -> str:
    return next((answer(text) for start, answer in _ANSWERS.items() if text.startswith(start)), "I do not know")


def _notice(text: str) -> str:
    """The sentence that shares most words with the question."""
    head, _, question = text.partition("\nQuestion: ")
    sentences = re.split(r"(?<=[a-z0-9])\. ", head.partition(": ")[2])
    asked = _stems(question)
    return max(sentences, key=lambda sentence: len(_stems(sentence) & asked))


def _stems(text: str) -> set[str]:
    """Words by their first letters; the short ones say little."""
    return {word[:5] for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 3 or word.isdigit()}


def _order(text: str) -> str:
    cents = [
        int(count) * round(float(price) * 100) for count, price in re.findall(r"(\d+) [a-z ]+ at (\d+\.\d\d)", text)
    ]
    return f"{sum(cents) / 100:.2f}"


def _ticket(text: str) -> str:
    told = text.partition("Ticket: ")[2].lower()
    return next((label for label, words in _TICKET_WORDS.items() if any(word in told for word in words)), "feature")


def _meeting(text: str) -> str:
    told = text.partition("Text: ")[2]
    day, month, year = re.findall(r"(\d+) ([A-Z][a-z]+) (\d{4})", told)[0]
    host = re.findall(r"taken by ([a-z]+)|\d{4} ([a-z]+) meets", told)[0]
    found = {
        "host": host[0] or host[1],
        "room": re.findall(r"[Rr]oom ([A-Z][a-z]+)", told)[0],
        "date": dt.date(int(year), _MONTHS.index(month) + 1, int(day)).isoformat(),
        "minutes": int(re.findall(r"(\d+) minutes", told)[0]),
    }
    return json.dumps(found)


def _days(text: str) -> str:
    first, last = (dt.date.fromisoformat(found) for found in re.findall(r"\d{4}-\d\d-\d\d", text))
    return str((last - first).days)


def _weekday(text: str) -> str:
    return dt.date.fromisoformat(re.findall(r"\d{4}-\d\d-\d\d", text)[0]).strftime("%A")


def _list(text: str) -> str:
    return ", ".join(sorted(text.partition(": ")[2].split(", ")))


def _units(text: str) -> str:
    small, count, large = re.findall(r"How many (\w+) are (\d+) (\w+)", text)[0]
    factors = {"metres": 1000, "minutes": 60, "days": 7, "grams": 1000, "hours": 24}
    return str(int(count) * factors[small]) if large else "0"


_ANSWERS: dict[str, Callable[[str], str]] = {
    "Answer from this notice": _notice,
    "Add up": _order,
    "Sort this ticket": _ticket,
    "Write host": _meeting,
    "How many days lie": _days,
    "Which weekday": _weekday,
    "Put these": _list,
    "How many ": _units,
}
