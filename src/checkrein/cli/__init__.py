"""The command line: one file per verb group, thin. Data on stdout, messages on stderr.

`app`        all verbs under one command; errors become a line, a hint and an exit code
`common`     options that every verb takes, printing, errors, opening the store
`tables`     tables and facts
`folder`     init, check, test, doctor
`run`        demo, serve
`decide`     decide
`approvals`  approvals list, show; in `votes` approve, deny, edit; in `standing` what holds longer;
             `emergency`, `watch`; `approval_view` is what people read before they vote
`desk`       where those work: the store of this machine, or (`remote`) a server
`audit`      audit list, show, verify; activity
`tail`       audit tail
`exports`    audit export; `evidence` for people who do not trust us: prove, checkpoint, consistency, witness,
             verifier
`privacy`    audit erase, hold, sweep
`filters`    the filters that these share
`control`    kill, revive, killed, limits
`metrics`    metrics
`policies`   explain, fmt
`analysis`   diff, and what check says of rules that cannot work
`replay`     replay
`openclaw`   openclaw setup, run, status, release
`keys`       keys create, list, rotate, revoke, rotate-signer
`bundle`     bundle build, sign, verify, show
`webhooks`   webhooks list, test, retry
`gate`       gate run, diff, import
`drift`      drift report
`rollout`    rollout start, list, status, watch, pause, resume, promote, abort, undo

What needs the store, the server or the policies is imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys

#: what shells report for a program that Ctrl-C ended
_INTERRUPTED = 130


def main() -> None:
    """The `checkrein` command. Even its imports stand in here: Ctrl-C never shows a traceback."""
    try:
        from checkrein.cli.app import execute

        code = execute()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)
