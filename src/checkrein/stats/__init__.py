"""Statistics behind gates, rollouts and drift: numbers in, verdicts out; nothing here knows what an agent is.

`intervals`   what a sample proves: bounds on rates, quantiles and differences, and the sample it would take
`shift`       whether two samples come from one world, and what is too small to notice; `ngrams` makes texts comparable
`sequential`  tests that may be looked at after every tick and still keep their false-alarm rate

Pure like the rooms above it. Who counts is `services`; who acts on a verdict is `flow`.
"""
