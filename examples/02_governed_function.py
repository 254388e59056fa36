"""Govern functions: they run only with a recorded decision, and once approved, once.

python examples/02_governed_function.py
"""

import tempfile
from pathlib import Path

from checkrein import ApprovalRequired, Denied, Governor
from checkrein.defaults import write

with tempfile.TemporaryDirectory() as temp:
    folder = Path(temp) / "governance"
    write(folder)
    with Governor.open(folder) as governor:

        @governor.governed(tool="read_file", subject="alice", roles=("staff",))
        def read_file(path: str) -> str:
            return f"the contents of {path}"

        @governor.governed(tool="send_email", subject="alice", roles=("staff",))
        def send_email(to: str, subject: str, body: str) -> str:
            return f"sent to {to}"

        @governor.governed(tool="transfer_funds", subject="alice", roles=("staff",))
        def transfer_funds(to: str, amount: int) -> str:
            return f"paid {amount} to {to}"

        print(read_file("q3.csv"))
        try:
            transfer_funds("ACME", 500)
        except Denied as denied:
            print("denied:", denied)
        mail = ("all employees", "Payroll", "It will be two days late.")
        try:
            send_email(*mail)
        except ApprovalRequired as waiting:
            print("waits for", waiting.decision.requirement)
            governor.system.approvals.vote(
                waiting.approval_id, voter="bob", roles=("communications",), approve=True, auth="example"
            )
        print(send_email(*mail))
        for row in governor.activities("alice"):
            print(row.action, row.decision, row.status)
