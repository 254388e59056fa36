"""Ask a Checkrein that serves, with nothing but the client.

python examples/03_ask_over_http.py
"""

import tempfile
from pathlib import Path

from checkrein import Client
from checkrein.compose import open_system
from checkrein.defaults import write
from checkrein.model import Permission
from checkrein.web.server import BackgroundServer

with tempfile.TemporaryDirectory() as temp:
    folder = Path(temp) / "governance"
    write(folder)
    system = open_system(folder)
    _, key = system.keys.create("enforcement-point", permissions=tuple(Permission), by="example")
    with BackgroundServer(system.app()) as server:
        client = Client(server.url, key)
        answer = client.submit_request(
            {
                "subject": {"type": "user", "id": "alice", "properties": {"roles": ["staff"]}},
                "action": {"name": "shell", "properties": {"input": {"command": "ls"}}},
                "resource": {"type": "tool", "id": "shell"},
            }
        )
        print(answer["decision"], answer["context"]["outcome"], answer["context"]["reasons"])
        for record in client.get_audit_logs(kind="decision"):
            print(record["seq"], record["kind"], record["body"]["decision"]["outcome"])
    system.close()
