"""Decide one request, with the default policies, and see why.

python examples/01_decide.py
"""

import tempfile
from pathlib import Path

from checkrein import Governor
from checkrein.defaults import write

REQUEST = {
    "subject": {"type": "user", "id": "alice", "properties": {"roles": ["treasury"]}},
    "action": {"name": "transfer_funds", "properties": {"input": {"to": "ACME", "amount": 25000}}},
    "resource": {"type": "tool", "id": "bank"},
    "context": {"agent": {"id": "treasury-bot", "version": "3"}, "session": "s-1"},
}

with tempfile.TemporaryDirectory() as temp:
    folder = Path(temp) / "governance"
    write(folder)
    with Governor.open(folder) as governor:
        decision = governor.decide(REQUEST)
        print(decision.outcome.name, "because", "; ".join(decision.reasons))
        print("risk", decision.risk.level, decision.risk.score, list(decision.risk.factors))
        print("who must agree:", decision.requirement, "as approval", decision.approval_id)
