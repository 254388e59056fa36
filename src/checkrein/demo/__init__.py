"""`checkrein demo`: an embedded agent gateway behind a real Checkrein, and requests sent through HTTP.

`gateway`   the embedded agent gateway (OpenAI-compatible HTTP); labelled `backend: embedded`
`model`     its deterministic model: a fake at the edge of the world, and it says so
`tools`     four sandboxed tools: send_email, transfer_funds, shell, read_file
`scenario`  the requests, the live table, the verified ledger

The outcomes come from the governance folder, never from here. Start with `scenario`.
"""
