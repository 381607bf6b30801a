"""Command line of `experiments.report.page`."""

import sys

from experiments.report.page import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
