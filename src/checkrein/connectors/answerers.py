"""What answers a golden case: an upstream's model, a Python function, a command. Each is named as people write it.

upstream:default/gpt-5     the model behind an upstream of checkrein.toml
python:agents.mine:answer  a function of a list of messages; it returns a text, or a mapping with `text`
command:./agent --quiet    reads {"messages": [...]} on its input, writes its answer
"""

from __future__ import annotations

import asyncio
import inspect
import shlex
from collections.abc import Mapping
from typing import cast

import msgspec

from checkrein.model import ConfigError, UpstreamUnavailable
from checkrein.model.json import dumps
from checkrein.ports import Upstream
from checkrein.services.gates import Answerer, Said
from checkrein.services.golden import Golden
from checkrein.services.scoring import function

#: a command that takes longer is killed
COMMAND_S = 300.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What 1,000 tokens cost, in whatever currency the limits are in."""

    input: float = 0.0
    output: float = 0.0


class ModelAnswerer:
    """Asks a model behind an upstream. `price` None: the cost is not known."""

    def __init__(self, name: str, upstream: Upstream, model: str, price: Price | None = None) -> None:
        self.name = name
        self._upstream = upstream
        self._model = model
        self._price = price

    async def answer(self, case: Golden) -> Said:
        body = dumps({"model": self._model, "messages": list(case.messages)})
        reply = await self._upstream.send("/v1/chat/completions", body, {})
        try:
            parts, size = [], 0
            async for part in reply.body():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise UpstreamUnavailable(f"`{self.name}` answers with more than {MAX_ANSWER_BYTES} bytes")
                parts.append(part)
        finally:
            await reply.close()
        if reply.status >= 400:
            raise UpstreamUnavailable(f"`{self.name}` answered {reply.status}", hint="see its log")
        return self._read(b"".join(parts))

    def _read(self, data: bytes) -> Said:
        try:
            answer = msgspec.json.decode(data, type=_Completion)
        except msgspec.MsgspecError:
            raise UpstreamUnavailable(f"`{self.name}` did not answer as chat completions do") from None
        if not answer.choices:
            raise UpstreamUnavailable(f"`{self.name}` gave no choice")
        used = answer.usage
        cost = None
        if self._price is not None:
            cost = (used.prompt_tokens * self._price.input + used.completion_tokens * self._price.output) / 1000
        text = answer.choices[0].message.content or ""
        return Said(text=text, tokens=used.prompt_tokens + used.completion_tokens, cost=cost)

    async def close(self) -> None:
        await self._upstream.close()


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage = msgspec.field(default_factory=_Usage)


class PythonAnswerer:
    """Calls a function with the messages; one that is not `async` runs in a thread."""

    def __init__(self, name: str) -> None:
        self.name = f"python:{name}"
        self._function = function(name)

    async def answer(self, case: Golden) -> Said:
        messages = [dict(message) for message in case.messages]
        try:
            if inspect.iscoroutinefunction(self._function):
                given = await self._function(messages)
            else:
                given = await asyncio.to_thread(self._function, messages)
        except Exception as error:
            # whatever an agent raises is its failure to answer, and counts as one
            raise UpstreamUnavailable(f"`{self.name}` raised {type(error).__name__}") from error
        if isinstance(given, str):
            return Said(text=given)
        try:
            return msgspec.convert(given, Said)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"`{self.name}` returned neither a text nor an answer: {error}",
                hint='return a text, or {"text": ..., "tokens": ..., "cost": ...}',
            ) from error

    async def close(self) -> None:
        return


class CommandAnswerer:
    """Runs a command for each case, without a shell. What it writes is the answer; a failing exit is none."""

    def __init__(self, command: str) -> None:
        self.name = f"command:{command}"
        self._words = shlex.split(command)
        if not self._words:
            raise ConfigError("the command is empty", hint="write `command:./agent --quiet`")

    async def answer(self, case: Golden) -> Said:
        given = dumps({"id": case.id, "messages": list(case.messages)})
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*self._words, stdin=pipe, stdout=pipe)
        except OSError as error:
            raise ConfigError(f"`{self._words[0]}` cannot be run: {error.strerror}", hint="name a program") from error
        try:
            async with asyncio.timeout(COMMAND_S):
                out, _ = await process.communicate(given)
        except TimeoutError:
            raise UpstreamUnavailable(f"`{self.name}` took longer than {COMMAND_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise UpstreamUnavailable(f"`{self.name}` ended with {process.returncode}")
        text = out[:MAX_ANSWER_BYTES].decode("utf-8", "replace")
        return _structured(text) or Said(text=text.strip())

    async def close(self) -> None:
        return


def _structured(text: str) -> Said | None:
    """An answer with its tokens and cost, if the command writes one as JSON."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        given = msgspec.json.decode(text)
        return msgspec.convert(given, Said) if "text" in cast("Mapping[str, object]", given) else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def plain_answerer(name: str) -> Answerer | None:
    """The function or command of this name; None if it is something else."""
    kind, _, rest = name.partition(":")
    if kind == "python":
        return PythonAnswerer(rest)
    return CommandAnswerer(rest) if kind == "command" else None
