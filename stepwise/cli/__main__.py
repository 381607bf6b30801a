"""`python -m stepwise.cli`: the command line, if `stepwise` is not on the PATH."""

from stepwise.cli import script

if __name__ == "__main__":
    script()
