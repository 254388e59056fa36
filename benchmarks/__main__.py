"""`python -m benchmarks [NAME ...] [--million] [--rivals] [--soak]`; the names are the keys of `ALL`."""

from __future__ import annotations

import platform
import sys
from os import cpu_count

from benchmarks import approvals, decision, drift, gateway, ledger, openclaw, policy, redaction, rollout

ALL = {
    "decision": decision.main,
    "policy": policy.main,
    "gateway": gateway.main,
    "ledger": ledger.main,
    "rollout": rollout.main,
    "approvals": approvals.main,
    "drift": drift.main,
    "redaction": redaction.main,
    "openclaw": openclaw.main,
}


def main() -> int:
    chosen = [name for name in sys.argv[1:] if not name.startswith("--")] or list(ALL)
    unknown = [name for name in chosen if name not in ALL]
    if unknown:
        print(f"no benchmark `{unknown[0]}`; choose from {', '.join(ALL)}", file=sys.stderr)
        return 2
    print(f"Python {platform.python_version()}, {platform.machine()}, {cpu_count()} cores")
    for name in chosen:
        print(f"\n## {name}")
        ALL[name]()
    return 0


sys.exit(main())
