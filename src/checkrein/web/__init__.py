"""HTTP: bytes in, answers out. No decision is made here.

`app`      the ASGI application: Host and Origin checks, keys, limits, routes
`authzen`  OpenID AuthZEN 1.0: `/access/v1/evaluation`, `/evaluations`
`proxy`    `/v1/chat/completions` and `/v1/models`, with a disconnect watcher
`admin`    `/api/v1/audit`
`server`   uvicorn in the foreground, or in a thread for the demo and the tests

Start with `app`.
"""
