"""What can be proved of policies with z3: which do nothing, what changes between two versions, what can never be.

What is asked:
`findings`    dead, shadowed and contradictory policies of one bundle
`diff`        every class of request that two bundles decide otherwise
`invariants`  `never: {outcome, when}` in `tests/*.yaml`

How it is told:
`world`       every request there can be, as variables; `types` reads the schema they follow from
`texts`       strings as numbers; `patterns` finds a text that fits these patterns and not those
`encode`      a policy: when it fires, when it errs; `expression`, `sets`, `hierarchy` do its conditions,
              `values` is what they make
`outcomes`    the four outcomes over encoded policies
`witness`     asks the solver, makes a concrete request of a solution and has the evaluator confirm it
`logic`       z3, and nothing else knows it

"None" is always a proof over every request the schema admits. "One" is a concrete request that `PolicySet.evaluate`
has confirmed, or is said to be unconfirmed. What the solver cannot tell is said to be unknown, never to be fine.

Risk, labels, provenance and usage are free here within the bounds that `world` states: they come from classifiers and
facts, which policies only see the results of. z3 is not installed by default: `pip install 'checkrein[analysis]'`.
"""
