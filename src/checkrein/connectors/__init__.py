"""Policy enforcement points: a protocol in, a `Request` out, the answer in the protocol's own words.

`openai`  chat completions: body -> request, redacted body, error shapes
`completions` what comes back: its tool calls, and refusals in the place of some; `chunks` the same for streams,
          `texts` their words
`sse`     server-sent events as they arrive
`python`  `@governed` for functions
`http`    the `Upstream` port over aiohttp; `addresses` says where a name may lead
`answerers` what answers golden cases: models, functions, commands
`oidc`    people as OpenID Connect issuers know them; `tokens` says what a token must hold
`webhook` the `Hook` port: signed messages to systems outside
`witness` the way to a C2SP tlog-witness, which is asked to cosign checkpoints

Start with `openai`.
"""
