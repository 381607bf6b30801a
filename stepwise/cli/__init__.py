"""The command line, for one's own images and networks: `stepwise predict`, `train`, `entk`,
`align`, `figure`, `data`.

Every command's flags are the fields of one dataclass. Exit codes: 0 for done, 1 for a figure whose
checks failed, 2 for a bad argument or file, in one line that says what was expected and what was
received, 130 when interrupted (the same command resumes).
"""

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import stepwise

ABOUT = (
    "What self-supervised learning will learn of your images, when, and what your network has "
    "learned of them."
)
FLAGS = {"size": ("side",), "limit": ("n_pairs", "n_images"), "name": ("data",)}
"""What the library calls otherwise than the command line."""


def script() -> None:
    """What `stepwise` on the PATH calls."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of XLA and orbax that an interrupted run leaves would crash the interpreter's exit
    if code == 130:
        os._exit(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given == ["--version"]:
        print(f"stepwise {stepwise.__version__}")
        return 0
    import tyro  # a quarter of the start-up, which --version does without

    from stepwise.cli import figure
    from stepwise.cli.commands import Align, Data, Entk, Predict, Train

    figures = figure.command()
    if given[:1] == ["figure"] and figures is figure.Elsewhere and "--help" not in given:
        print(f"stepwise figure: {figure.ELSEWHERE}", file=sys.stderr)  # whatever its flags
        return 2
    commands: dict[str, Callable[..., Any]] = {
        "predict": Predict,
        "train": Train,
        "entk": Entk,
        "align": Align,
        "figure": figures,
        "data": Data,
    }
    command: Any = None
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            commands,
            args=given or ["--help"],
            prog="stepwise",
            description=ABOUT,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return int(command.run())
    except BrokenPipeError:  # `stepwise ... | head`: not for the interpreter to say at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:  # one of the package's own: its message is whole
            print(f"stepwise {given[0]}: {error}", file=sys.stderr)
        else:
            print(f"stepwise {given[0]}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ImportError as error:  # an optional package is missing, and the message says which
        print(f"stepwise {given[0]}: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"stepwise {given[0]}: {_in_flags(str(error), command)}", file=sys.stderr)
        return 2
    except OverflowError as error:
        print(f"stepwise {given[0]}: a number is too large or too small: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            f"stepwise {given[0]}: out of memory, with fewer or smaller images it may fit: {error}",
            file=sys.stderr,
        )
        return 2
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"stepwise {given[0]}: out of memory: {str(error)[:200]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"stepwise {given[0]}: interrupted; run the same command to resume",
            file=sys.stderr,
        )
        return 130


def _in_flags(message: str, command: Any) -> str:
    """A refusal that begins with the name of an argument, with that of its flag: `n_pairs: ...` is
    `--n-pairs: ...`.
    """
    name, _, rest = message.partition(":")
    holders = [each for each in (command, getattr(command, "given", None)) if each is not None]
    known = {field.name for each in holders for field in fields(each)}
    flag = next((each for each in (*FLAGS.get(name, ()), name) if each in known), None)
    return message if flag is None else f"--{flag.replace('_', '-')}:{rest}"
