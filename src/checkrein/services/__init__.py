"""Orchestration: the machines of `flow` run against the ports. Knows no adapter.

`pdp`        decides a request: facts, trace id, bundle, Python policies
`gateway`    runs one governed action: decide, record, execute, record (sync and async)
`deciding`   what is to become of it: policy, what people agreed to, what was used
`recording`  its records, durable before it runs and before it is answered
`steps`      the two drivers of an action's steps: asyncio and threads
`governed`   what a governed action is while it is under way
`search`     who may do what to what: the known ones, decided one by one
`approvals`  lists, shows and votes; the state machine in the store; `electorate` is who may vote, `delegation` in whose
             place, `edits` changes what is asked, `grants` are standing permissions, `emergency` is break-glass,
             `showing` is what people are shown
`audit`      reads and verifies the ledger; activity rows; `filters` is what people look for
`exports`    the ledger in the forms others read: `translate` does it, by the table in `mapping`
`access_requests` what an enforcement point submits after a denial that people may lift
`waiting`    who waits for people is woken by the vote of any process; how long callers are held
`records`    what happened, as ledger drafts
`payloads`   what was asked and answered, sealed before the action runs
`privacy`    who may see payloads, how long they are kept, how they are erased
`writes`     two durable writes that are waited for as one
`reload`     new policy versions while a server runs: proved first, then swapped in
`rollouts`   another version in stages: started and steered by people, judged by whoever ticks; `counting` counts
`arms`       which version decides or answers: stable, promoted in its place, or a canary under way
`notices`    who is told what: approvers, requesters, who is on alert; `escalations` says when more people may vote
`outbox`     tells webhooks of every record, at least once and in order; `cloudevents` is what they are told
`gates`      champion and challenger on golden cases; `golden` reads them, `scoring` scores, `verdicts` reports and
             `imports` takes runs of other tools
`drift`      whether production still looks like the golden set; `seen` counts both, `suggestions` proposes cases to add
`metrics`    how well a deployment governs, beside its targets; `live` is what this process did, `vitals` how it is now
`replay`     recorded decisions, decided again by a candidate version of the policies
`recovery`   after a crash: a start without an end becomes `execution.unknown`
`turns`      prompts in flight, so that an agent gateway's tool calls are decided for the person
`reconcile`  agent gateways: heard, decided and observed, joined; ungoverned actions and quarantine
`answers`    decides what a model answers: its tool calls here, its words in `speech`; `comeback` puts values of the
             prompt back into it; `results` decides what tools answer
`ids`        unguessable ids
`evidence`   for people who do not trust us: export as tiles, proof of a record, proof of growth
`witness`    others cosign each checkpoint, once they have seen that it only extends the last
`idempotency` one execution and one answer for an `Idempotency-Key`
`keys`       API keys: create, find, rotate, revoke
`killswitch` what may not run at all, from the next request on; what runs of it is cut
`spans`      each governed action as a span of OpenTelemetry
`refusals`   requests that were refused before they were an action, by the minute
`limits`     rates, concurrency and budgets, held in the transaction that lets an action run
`rotation`   a new key for the ledger, recorded under the old one

Start with `gateway`.
"""
