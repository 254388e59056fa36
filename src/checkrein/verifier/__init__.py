"""What an auditor runs far away from here: one file that imports nothing of ours, and is handed out as it is.

`verify_ledger`  checks an export or a proof with only the public key; standard library and `cryptography`

It says the same as `ledger.verify` in other words on purpose: a mistake in one does not hide in the other.
"""

from importlib.resources import files


def source() -> str:
    """The text of `verify_ledger.py`."""
    return (files(__name__) / "verify_ledger.py").read_text(encoding="utf-8")
