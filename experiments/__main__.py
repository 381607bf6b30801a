"""`python -m experiments`: see `experiments.run`."""

import sys

from experiments.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
