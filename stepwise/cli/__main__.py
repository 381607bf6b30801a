"""`python -m stepwise.cli`: the command line where its script is not on the PATH."""

import sys

from stepwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
