"""Orchestration: the machines of `flow` run against the ports. Knows no adapter.

`pdp`        decides a request: facts, trace id, bundle, Python policies
`gateway`    runs one governed action: decide, record, execute, record (sync and async)
`approvals`  lists, shows and votes; the state machine in the store
`audit`      reads, verifies and exports the ledger; activity rows
`keys`       API keys: create, find, revoke

Start with `gateway`.
"""
