"""Policy-as-code: Cedar files and tool manifests become one immutable, compiled bundle.

What people write:
`manifest`    `tools.yaml`: what a tool is (effects, arguments, limits, intents)
`toolfiles`   `tools/*.json`: tool lists of MCP servers and of OpenAI's API, as manifests
`effect`      effect classes, and what the name of an undeclared tool tells
`schema`      the Cedar schema and the action entities that follow from the manifests
`cedar`       Cedar text -> policies: duties from annotations, problems with file, line and hint
`cases`       policy tests, and running them; `casefile` reads `tests/*.yaml`, `junit` writes results
`explain`     why the policies decide a request as they do, for people
`bundle`      a governance folder checked as a whole and known by its SHA-256 digest
`archive`     a bundle as one canonical file with a manifest of digests; `dsse` signs and verifies it

How it is decided:
`engine`      `PolicySet.evaluate`: the four outcomes, the determining and the erring policies
`compile`     policies -> closures at load; `expression` walks Cedar's JSON form, `operators` and `hierarchy`
              know what each operator does, `node` is what they make
`index`       policies as bits: which of thousands hold; `conjunct` and `column` make it of what they demand
`template`    policies with `?principal` or `?resource`, and their links
`values`      Cedar's values; `extension` has decimal, ipaddr, datetime, duration
`entities`    entities in Cedar's JSON form
`failure`     why an expression has no value
`selfcheck`   the compiled policies against the official engine, on requests aimed at them

Where things stand in a file: `source` (YAML), `tokens` (Cedar).

Values in, values out: a folder is read elsewhere and handed in as bytes. What a request's risk is, and which facts
it has, is `decide`'s business. Start with `engine`, then `bundle`.
"""
