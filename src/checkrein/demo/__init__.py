"""`checkrein demo`: an embedded agent gateway behind a real Checkrein, and requests sent through HTTP.

`gateway`   the embedded agent gateway (OpenAI-compatible HTTP); labelled `backend: embedded`
`agent`     one turn behind it: the model, a verdict before every tool call, the tools
`pdp`       asks Checkrein for that verdict
`model`     the deterministic model: a fake at the edge of the world, and it says so
`tools`     four sandboxed tools: send_email, transfer_funds, shell, read_file
`scenario`  the requests, sent one by one, and what really happened
`openclaw`  the same through a real OpenClaw Gateway, with `mcp` for the tools and `endpoint` for the model
`show`      the live table, the verified ledger, what to try next

The outcomes come from the governance folder, never from here. Start with `scenario`.
"""
