"""Command line of `experiments.run_one`."""

import sys

from experiments.run_one import main
from stepwise import _terminal

if __name__ == "__main__":
    _terminal.escape_output()
    sys.exit(main(sys.argv[1:]))
