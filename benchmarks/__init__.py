"""Measurements: ratios beside a rival in one run, never a timed test. `make bench` runs them all.

`policy`    10 to 10,000 policies, beside `cedarpy` and `agent-governance-toolkit-core`
`decision`  one decision in process, beside `cedarpy` on the same policies
`ledger`    durable decisions a second, beside one commit a record and a rival that never syncs; verification
`rollout`   how often a rollout is rolled back and how soon, simulated, beside the rules that people write down first
`proxy`     CPU a governed, durably recorded request, beside the same upstream called directly
"""
