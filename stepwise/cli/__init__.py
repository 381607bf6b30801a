"""The command line: `stepwise predict`, `train`, `entk`, `align`, `forecast` and others.

The flags of a command are the fields of one dataclass. Exit codes:

- 0: success.
- 1: a check of a figure failed, or a training run diverged.
- 2: an argument or a file is invalid. One line says what was expected and what was received.
- 130: the command was interrupted. The same command resumes.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import stepwise
from stepwise import _terminal

ABOUT = "Predict what self-supervised learning will learn from your images, and test it."
FLAGS = {"size": ("side",), "limit": ("n_pairs", "n_images"), "name": ("data",)}
"""Argument of the library → fields of the commands that pass it under another name."""


def script() -> None:
    """Run the command of the command line, and exit with its code."""
    _terminal.escape_output()
    code = 0
    try:
        code = main()
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed before
            stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            code = _fail(sys.argv[1:], f"the output: {error.strerror}")
    # an interrupted run leaves threads of XLA and orbax, which crash the interpreter's exit
    if code == 130:
        os._exit(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"stepwise {stepwise.__version__}")
        return 0
    import tyro  # here, because --version does not need it and it is slow to import

    from stepwise.cli import figure
    from stepwise.cli.commands import Align, Data, Entk, Forecast, Predict, Train, Watch

    figures = figure.command()
    if arguments[:1] == ["figure"] and figures is figure.Elsewhere and "--help" not in arguments:
        # before tyro, which would reject the flags of the missing figures with another message
        print(f"stepwise figure: {figure.ELSEWHERE}", file=sys.stderr)
        return 2
    commands: dict[str, Callable[..., Any]] = {
        "predict": Predict,
        "train": Train,
        "entk": Entk,
        "align": Align,
        "forecast": Forecast,
        "watch": Watch,
        "figure": figures,
        "data": Data,
    }
    command: Any = None
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            commands,
            args=arguments or ["--help"],
            prog="stepwise",
            description=ABOUT,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        _require_devices()
        return int(command.run())
    except BrokenPipeError:  # `stepwise ... | head` closed the pipe: exit without an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:  # raised by this package, with a complete message
            return _fail(arguments, str(error))
        return _fail(arguments, f"{error.filename or 'the output'}: {error.strerror}")
    except ImportError as error:  # an optional package is missing; the message names it
        return _fail(arguments, str(error))
    except ValueError as error:
        return _fail(arguments, _name_flag(str(error), command))
    except OverflowError as error:
        return _fail(arguments, f"a number is too large or too small: {error}")
    except MemoryError as error:
        return _fail(arguments, f"out of memory; try fewer or smaller images: {error}")
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail(arguments, f"out of memory: {str(error)[:200]}")
    except KeyboardInterrupt:
        return _fail(arguments, "interrupted; run the same command to resume", code=130)


def _require_devices() -> None:
    """Raise a ValueError if the variable JAX_PLATFORMS asks for devices that are not here."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted in ("", "cpu"):  # always there; some commands do not need JAX
        return
    import jax

    try:
        jax.devices()
    except Exception as error:  # an AssertionError or a RuntimeError, depending on what is missing
        expected = "JAX_PLATFORMS: expected devices that JAX finds here (cpu is always one)"
        raise ValueError(f"{expected}, received {wanted!r}") from error


def _fail(arguments: list[str], message: str, code: int = 2) -> int:
    """Print the command's error, and return its exit code."""
    print(f"stepwise {arguments[0]}: {message}", file=sys.stderr)
    return code


def _name_flag(message: str, command: Any) -> str:
    """Replace an argument's name at the start of a message by its flag.

    For example, `n_pairs: ...` becomes `--n-pairs: ...`.
    """
    name, _, rest = message.partition(":")
    holders = [each for each in (command, getattr(command, "settings", None)) if each is not None]
    names = {field.name for each in holders for field in fields(each)}
    flag = next((each for each in (*FLAGS.get(name, ()), name) if each in names), None)
    return message if flag is None else f"--{flag.replace('_', '-')}:{rest}"
