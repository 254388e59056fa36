"""HTTP: bytes in, answers out. No decision is made here.

`app`      the ASGI application: its routes, and what stands around each
`guard`    is this host ours, who is calling, may they do this
`authzen`  OpenID AuthZEN 1.0: `/access/v1/evaluation`, `/evaluations` and the metadata
`search`   `/access/v1/search/subject`, `/resource` and `/action`
`proxy`    `/v1/chat/completions`, `/v1/responses` and `/v1/embeddings`; cut when the caller leaves
`protocol` HTTP/1.1 as uvicorn speaks it, with a bound on heads
`answer`   one answer on its way to the caller
`models`   `/v1/models`
`routes`   which upstream a request goes to, and who stands in for it
`access_requests` `/access/v1/requests`: denials that people may lift, by the AuthZEN profile
`refused`  why a request was refused before it was an action
`errors`   an answer for every error, in the words of the protocol
`approvals` `/api/v1/approvals`: what waits for people, its end, votes, edits, events; `ballots` is what people say
`standing` `/api/v1/grants` and `/api/v1/delegations`: what holds beyond one request
`pages`    `/approvals/ID` for people with a browser
`admin`    `/api/v1/audit/records` and `/api/v1/activities`
`openclaw` `/api/v1/openclaw`: what an OpenClaw plugin calls beside AuthZEN
`invoke`   `/tools/invoke`: single tools of an OpenClaw Gateway
`metrics`  `/metrics` for Prometheus
`control`  `/api/v1/kill`, `/revive`, `/killed`, `/limits`
`openapi`  `/openapi.json`: all of these, as `openapi.yaml` describes them
`headers`  those of a request; what a body is declared as, and its `Idempotency-Key`
`body`     a request's body, bounded in size and time
`trace`    the trace of a request
`server`   uvicorn in the foreground, or in a thread for the demo and the tests

Start with `app`.
"""
