"""`python -m checkrein` is the `checkrein` command."""

from checkrein.cli import main

main()
