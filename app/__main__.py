"""`python -m app`: the command line, from a checkout that is not installed."""

from lethe.cli.main import main

main()
