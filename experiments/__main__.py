"""`python -m experiments`: a spawned process would not find what is defined here."""

import sys

from experiments.command import main

if __name__ == "__main__":
    sys.exit(main())
