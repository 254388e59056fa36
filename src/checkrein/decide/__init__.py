"""The policy decision point: a bundle, a request and facts in; a decision out. Pure.

`evaluate`    the decision: the bundle's policies and those written in Python, under one lattice
`context`     what is known (`Situation`), and the form in which policies see it
`classify`    request -> labels and risk (effects, intents, arguments, detections)
`provenance`  where each control argument's value came from
`results`     what tools answered before: untrusted, but for what manifests vouch for
`detect`      finds personal data and secrets in text: spans with a class
`detectors`   the built-in patterns, and the checks behind them; `secrets` and `identity` hold more, `rule` says what
              one is
`explain`     why the policies decide a request as they do, for people
`scan`        one pass of the detectors over a text that comes in pieces; `passes` are all of them
`partial`     from a pattern, the pattern of what may still become a match
`stream`      a text, whole or in pieces -> the same with stable placeholders for its spans
`redact`      the same for JSON values
`spoken`      a text in pieces, read as `redact` reads it whole: JSON within it too
`quiet`       whether nothing is found in a JSON value, by one look at all of its texts
`media`       images and sounds, in which nothing is read
`disguise`    what a text says in other forms: `escapes`, base64; `forms` reads them in a text that comes in pieces
`calm`        whether a text in pieces holds nothing so far, by one look; then no pass reads it
`restore`     placeholders -> values, for targets that may see them; also as a stream
`names`       which names of people, agents, tools may not be recorded
`fold`        text as matchers see it: invisible and look-alike characters hide nothing
`patterns`    RE2: many patterns in one pass

No step here writes a record or runs anything. Start with `evaluate`.
"""
