"""Policy-as-code: Cedar files and tool manifests become one immutable, compiled bundle.

`manifest`  `tools.yaml`: what a tool is (effects, arguments, limits, intents)
`schema`    the Cedar schema that follows from the manifests
`cedar`     Cedar text -> policies: strict parsing, annotations, problems with file, line and hint
`compile`   policies -> Python closures at load; Cedar's semantics with errors kept
`engine`    `PolicySet.evaluate`: the four outcomes, the determining and the erring policies
`entities`  entities in Cedar's JSON form
`bundle`    a governance folder read, checked and known by its SHA-256 digest
`cases`     policy tests (`tests/*.yaml`)

Reading a folder is the only disk access, in `bundle`. What a request's risk is, and which facts it has, is
`decide`'s business. Start with `engine`, then `bundle`.
"""
