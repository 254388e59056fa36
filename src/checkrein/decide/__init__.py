"""The policy decision point: a bundle, a request and facts in; a decision out. Pure.

`detect`      finds personal data and secrets in text: spans with a class
`classify`    request -> labels and risk (effects, intents, arguments, detections)
`provenance`  where each control argument's value came from
`evaluate`    labels, risk and facts become Cedar's context; the bundle decides; Python policies join in
`redact`      spans -> clean copy with stable placeholders

No step here writes a record or runs anything. Start with `evaluate`.
"""
