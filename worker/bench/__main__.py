"""`python -m worker.bench`: a spawned process would not find what is defined here."""

import sys

from worker.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
