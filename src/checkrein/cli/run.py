"""`checkrein demo` and `checkrein serve`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, examples, is_terminal, operator, plain, say
from checkrein.cli.tables import console

if TYPE_CHECKING:
    import logging

    from checkrein.demo.show import Opens

DEMO = Path("checkrein-demo")
#: into a pipe or a file there is no edge; this is wide enough for the demo's table
_DEMO_WIDTH = 160


def register(app: typer.Typer) -> None:
    app.command(
        short_help="See it work: real requests, governed and proved.",
        epilog=examples("checkrein demo", "checkrein demo --interactive", "checkrein demo --openclaw"),
    )(demo)
    app.command(
        short_help="Run the gateway and the decision endpoint.",
        epilog=examples(
            "checkrein serve --dir governance",
            "CHECKREIN_SERVER_PORT=9000 checkrein serve --dir governance",
            "",
            'curl -H "Authorization: Bearer $KEY" http://127.0.0.1:8642/readyz',
        ),
    )(serve)


def demo(
    dir: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="DIR", help="The governance folder; made if it is not there. Edit it, run again."
        ),
    ] = DEMO,
    data: Data = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="You approve or deny, at this terminal.")] = False,
    openclaw: Annotated[
        bool, typer.Option("--openclaw", help="Through a real OpenClaw Gateway, which npm installs (830 MB).")
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="UPSTREAM/MODEL", help="With --openclaw, a model of yours.", show_default="scripted")
    ] = "",
) -> None:
    """See agent requests classified, decided, approved, executed, recorded and proved.

    Starts an embedded agent gateway and Checkrein in front of it, on free loopback ports, and sends requests
    through HTTP. The outcomes come from the governance folder. No account, no API key.
    """
    from checkrein.demo.scenario import stage
    from checkrein.demo.show import run

    width = None if is_terminal() or "COLUMNS" in os.environ else _DEMO_WIDTH
    out, err = console(width=width), console(stderr=True, width=width)
    opens = _real(model) if openclaw else stage
    run(dir, data=data, interactive=interactive, who=operator(), out=out, err=err, opens=opens)


def _real(model: str) -> Opens:
    """The demo's stage on a real OpenClaw Gateway."""
    from functools import partial

    from checkrein.connectors.openclaw_runtime import find
    from checkrein.demo.openclaw import stage

    return partial(stage, runtime=find(tell=say), model=model, tell=say)


def serve(
    dir: Dir = HERE,
    data: Data = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Where to listen.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="The port; 0 takes a free one.", show_default="8642")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the policies from this bundle.", show_default="the folder"),
    ] = None,
    bundle_key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.pub", help="A public key that may sign bundles.")
    ] = None,
) -> None:
    """Serve the gateway and the decision endpoint until SIGTERM or Ctrl-C.

    Then open answers may go on for `server.drain_seconds`. Every other verb works on the same store meanwhile.

    Policies that change are taken within seconds (SIGHUP looks at once), if their tests pass and nothing is wrong with
    them; else the old ones stay, and standard error, /readyz and the ledger say why.

    \b
    Routes, each needs a key (checkrein keys create):
      POST /v1/chat/completions, /v1/responses and /v1/embeddings, GET /v1/models
      POST /tools/invoke, of an OpenClaw Gateway
      POST /access/v1/evaluation, /access/v1/evaluations and /access/v1/requests
      POST /access/v1/search/subject, /search/resource and /search/action
      GET  /api/v1/approvals, /approvals/ID, /approvals/events
      POST /api/v1/approvals/ID/vote; a page to vote on: /approvals/ID
      GET  /api/v1/audit/records and /api/v1/activities
      POST /api/v1/kill and /api/v1/revive, GET /api/v1/killed and /limits
      GET  /healthz, /readyz and /metrics; /openapi.json describes all of these
    """
    from checkrein.compose import open_system
    from checkrein.web.server import serve as run

    flags = {"server.host": host, "server.port": port}
    opened = open_system(dir, data=data, flags=flags, bundle=bundle, bundle_keys=bundle_key or ())
    try:
        opened.reloader.prove()
        server = opened.config.server
        app = opened.app()
        for warning in opened.loaded.warnings:
            say(f"warning: {warning}")
        if not opened.keys.all():
            say("no keys yet: make one with `checkrein keys create NAME`")
        if not opened.config.upstreams:
            say("no upstream yet: add `[upstreams.NAME]` to checkrein.toml; decisions work without one")
        for name, given in sorted(opened.config.upstreams.items()):
            say(f"upstream `{name}`: {given.base_url}, models {', '.join(given.models) or 'none'}")
        _log_to_stderr()
        with (
            opened.tracing(),
            opened.telling(),
            opened.witnesses,
            opened.comparing(),
            opened.observing(),
            opened.watching() as watch,
            _on_hangup(watch.nudge),
        ):
            run(
                app,
                server.host,
                server.port,
                grace_s=server.drain_seconds,
                on_listening=lambda url: say(
                    f"listening on {url}, governed by {opened.folder}, policy {opened.pdp.bundle.digest[:19]}"
                ),
            )
    finally:
        opened.close()
    say("stopped")


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """SIGHUP, which would end the process, asks for something inside."""
    before = signal.signal(signal.SIGHUP, lambda number, frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _log_to_stderr() -> None:
    """What the server warns of, and which policies decide."""
    import logging

    logging.basicConfig(handlers=[_handler()], level=logging.WARNING)
    logging.getLogger("checkrein.policy").setLevel(logging.INFO)


def _handler() -> logging.Handler:
    """Writes each message as one line, for names in it come from agents.

    A request that outlived the grace time is cut off, which is no fault of ours.
    """
    import logging
    from asyncio import CancelledError

    class OneLine(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
            return plain(super().formatMessage(record)).replace("\n", "\\n")

    def cut_off(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], CancelledError):
            record.msg, record.args, record.exc_info = "a request was cut off: the grace time is over", (), None
        return True

    handler = logging.StreamHandler()
    handler.addFilter(cut_off)
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    return handler
