"""Command line of `experiments.report.page`."""

import sys

from experiments.report.page import main
from stepwise import _terminal

if __name__ == "__main__":
    _terminal.escape_output()
    sys.exit(main(sys.argv[1:]))
