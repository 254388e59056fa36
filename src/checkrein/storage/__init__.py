"""Where things are kept. `tests/storage/test_store.py` runs on every store.

`sqlite`     the default store; puts together the next few
`writer`     one thread, group commit: WAL, synchronous FULL
`gather`     how writes come together for a thread that writes: the writer's, the vault's
`reader`     reads on connections of its own; all there is of a store that may be broken
`standing`   rows that every request reads, kept for as long as no process writes one
`walkers`    look through all records, on every core, for `audit verify`
`queues`     rows in an order of their own, such as by a deadline; `shapes` finds records by any filters at once
`indexes`    whether lists find what the records hold, for `audit verify --indexes`
`changes`    notices that any process wrote; `follow` reads on from there
`keeper`     the signed checkpoint and the leaf hashes, outside the database
`owners`     which processes are alive, for recovery after a crash
`database`   tables, connections, and what SQLite's errors mean
`vault`      payloads, sealed by a thread of its own in a database of its own
`payloads`   the tables of that database
`sealing`    AES-256-GCM and the forms it is kept in
`scrub`      leaves nothing in the ledger's files of rows that were overwritten
`memory`     for tests and for trying things out; says so
`units`      what every store does with a unit before it writes
`files`      the data directory: key files, checkpoint, locks
`folder`     reads a governance folder
`bundles`    bundle files: serials, the last good one, key files; sources of policy versions
`shelf`      canary bundles, each under its digest; `runs` of gates, answer by answer

Start with `sqlite`.
"""
