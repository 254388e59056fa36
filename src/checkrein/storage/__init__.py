"""Where things are kept. `tests/storage/test_store.py` runs on every store.

`sqlite`     the default store; puts together the next four
`writer`     one thread, group commit: WAL, synchronous FULL
`reader`     reads on connections of its own; all there is of a store that may be broken
`keeper`     the signed checkpoint and the leaf hashes, outside the database
`owners`     which processes are alive, for recovery after a crash
`database`   tables, connections, and what SQLite's errors mean
`memory`     for tests and for trying things out; says so
`units`      what every store does with a unit before it writes
`files`      the data directory: key files, checkpoint, locks
`folder`     reads a governance folder

Start with `sqlite`.
"""
