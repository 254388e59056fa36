"""Where things are kept. Every store passes `tests/storage/suite.py`.

`memory`  for tests and for trying things out; says so
`sqlite`  the default: WAL, synchronous FULL, one writer thread with group commit
`files`   the data directory: key files, the checkpoint outside the database

Start with `sqlite`.
"""
