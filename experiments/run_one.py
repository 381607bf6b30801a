"""Run one figure: compute, check, draw, and write
results/NAME/PRESET/{summary.json,arrays.npz,config.json,figure.*}.

Running again with the same configuration, images, code and versions only checks and draws anew,
from arrays.npz.
"""

import importlib
import json
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.arguments import FIGURES, Arguments
from experiments.contract import Check, Result, finished
from experiments.shared import images
from stepwise import _files, _npz, plotting, record

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str]) -> int:
    """0 when every check passed, 1 when one failed, 2 for a bad argument."""
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments")
    try:
        return args.run()
    except (ValueError, OSError) as error:
        print(f"{args.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{args.name}: interrupted; run the same command to resume",
            file=sys.stderr,
        )
        return 130


def run(args: Arguments) -> bool:
    """Do what the arguments say; return whether every check passed."""
    figure = module(args.name)
    config = configured(figure, args)
    folder = Path(args.out) / args.name / args.preset
    wanted: dict[str, Any] = {
        "config": asdict(config),
        "code": _files.code_digest(Path(figure.__file__), ROOT),
        "versions": record.versions(),
    }
    # the same path may hold other images by now; --redraw does not ask
    wanted |= {} if args.redraw else {"images": _digest(figure, config)}
    stored = _stored(folder, wanted, as_it_is=args.redraw)
    if args.redraw and stored is None:
        raise ValueError(
            f"--redraw: expected {folder / 'arrays.npz'} of this configuration, found none"
        )
    began = time.perf_counter()

    def write(result: Result, *, whole: bool) -> list[Check]:
        about = {"seconds": time.perf_counter() - began} | record.circumstances()
        folder.mkdir(parents=True, exist_ok=True)
        header = {"numbers": result.numbers, "about": about, "whole": whole, **wanted}
        _npz.write(folder / "arrays.npz", f"figure {args.name}", result.arrays, header)
        return _draw(figure, folder, result, about | {"whole": whole}, wanted["config"])

    with jax.enable_x64(getattr(config, "x64", False)):
        if stored is not None and not args.again:
            result, about = stored
            print(
                f"{args.name} {args.preset}: computed before, drawing from {folder / 'arrays.npz'} "
                f"(--again: anew)"
            )
            checks = _draw(figure, folder, result, about | {"whole": True}, wanted["config"])
        else:
            computed = figure.run(
                config, progress=lambda what: print(f"  {args.name}: {what} ...", flush=True)
            )
            result = finished(computed, lambda part: write(part, whole=False))
            checks = write(result, whole=True)
    _report(checks)
    return all(check.passed for check in checks)


def module(name: str) -> Any:
    """The module of a figure."""
    return importlib.import_module(FIGURES[name])


def _digest(figure: Any, config: Any) -> str:
    """A hash of the images that a figure reads: by its own function, or of its Config's images."""
    if hasattr(figure, "digest"):
        return str(figure.digest(config))
    return images.digest(config) if hasattr(config, "data") else "none"


def _draw(
    module: Any, folder: Path, result: Result, about: dict[str, Any], config: dict[str, Any]
) -> list[Check]:
    """Check and draw; write all but the arrays."""
    checks: list[Check] = module.check(result)
    _files.write_json(folder / "config.json", config)
    with plotting.style():
        plotting.save(module.plot(result), folder)
    summary = (
        {"checks": [check.summary() for check in checks]} | about | {"numbers": result.numbers}
    )
    _files.write_json(folder / "summary.json", summary)
    print(
        f"  {about['seconds']:.1f} s to compute, {folder / 'figure.png'}, "
        f"{folder / 'summary.json'}",
        flush=True,
    )
    return checks


def configured(module: Any, args: Arguments) -> Any:
    """The preset with the command line's changes; refuses fields that the figure does not have."""
    config = getattr(module.Config, args.preset)()
    names = {field.name for field in fields(config)}
    given = {
        name: getattr(args, name)
        for name in ("data", "data_dir")
        if getattr(args, name) is not None
    }
    for name in given.keys() - names:
        raise ValueError(f"--{name.replace('_', '-')}: {args.name} reads no images")
    flags = []
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals or name not in names:
            raise ValueError(
                f"--set: expected FIELD=VALUE with a field among {sorted(names)}, received {item!r}"
            )
        flags += [f"--{name.replace('_', '-')}", *value.split(",")]
    # booleans are given as --set x64=False, like every other field
    return tyro.cli(
        tyro.conf.configure(tyro.conf.FlagConversionOff)(type(config)),
        default=replace(config, **given),
        args=flags,
    )


def _stored(
    folder: Path, wanted: dict[str, Any], *, as_it_is: bool
) -> tuple[Result, dict[str, Any]] | None:
    try:
        arrays, header = _npz.read(folder / "arrays.npz", f"figure {folder.parent.name}", ())
        asked = json.loads(json.dumps(wanted))
        relevant = ["config"] if as_it_is else list(asked)
        if header["whole"] and all(header.get(name) == asked[name] for name in relevant):
            return Result(arrays, header["numbers"]), header["about"]
    except (OSError, ValueError, KeyError):
        pass  # missing, half a file of an older version, or foreign: compute anew
    return None


def _report(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = "ok  " if check.passed else "FAIL"
        kind = " (premise)" if check.premise else ""
        print(
            f"  {verdict} {check.name:<{width}}  {check.value:.4g} {check.relation} "
            f"{check.bound:.4g}{kind}"
        )
    failed = sum(not check.passed for check in checks)
    if failed:
        print(
            f"  {failed} of {len(checks)} checks failed. Bounds are set for the laptop preset's "
            f"own images; where a "
            "premise fails, the claim was not tried."
        )
