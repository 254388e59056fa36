"""Policy enforcement points: a protocol in, a `Request` out, the answer in the protocol's own words.

`openai`  what is asked of a model: body -> request, redacted body, error shapes
`dialects` the protocols that are served, in one table
`completions`, `chunks` a chat completion as it comes back, whole and as a stream
`responses`, `events` the same for `/v1/responses`
`stream`, `texts` what is the same for all streams: calls are held until they are decided, words go on redacted
`envelope` what events of one text have in common, so that only the words of the next are read
`metering` how many tokens a prompt will use, and did use
`sse`     server-sent events as they arrive
`openclaw` what OpenClaw's plugin tells and its events say; `openclaw_runtime` installs it, `openclaw_home` hardens it,
          `openclaw_process` runs it, `openclaw_observer` watches it
`python`  `@governed` for functions
`http`    the `Upstream` port over aiohttp; `addresses` says where a name may lead
`patience` a limit to waiting, for what nearly never waits
`answerers` what answers golden cases: models, functions, commands
`oidc`    people as OpenID Connect issuers know them; `tokens` says what a token must hold
`smtp`    messages by mail; `slack` messages into a channel
`webhook` the `Hook` port: signed messages to systems outside
`otel`    spans to a collector of OpenTelemetry (extra)
`witness` the way to a C2SP tlog-witness, which is asked to cosign checkpoints

Start with `openai`.
"""
