"""Command line of `experiments.run_one`."""

import sys

from experiments.run_one import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
