"""Run one figure: compute it, check it, draw it, and store the results.

The files are results/NAME/PRESET/{summary.json,arrays.npz,config.json,figure.*}. A second run with
the same configuration, images, code and versions reads arrays.npz and only checks and draws.
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
    """Run a figure; return 0 if every check passed, 1 if one failed, 2 for a bad argument."""
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments")
    try:
        require_one_set(argv)
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


def require_one_set(argv: list[str]) -> None:
    """Reject a second --set, which would replace the first.

    Raises:
        ValueError: if there are two.
    """
    count = sum(each == "--set" or each.startswith("--set=") for each in argv)
    if count > 1:
        raise ValueError(f"--set: expected once, with all FIELD=VALUE after it, received {count}")


def run(args: Arguments) -> bool:
    """Compute or load a figure, check it and draw it; return whether every check passed."""
    figure = module(args.name)
    config = configured(figure, args)
    folder = Path(args.out) / args.name / args.preset
    provenance: dict[str, Any] = {
        "config": asdict(config),
        "code": _files.code_digest(Path(figure.__file__), ROOT),
        "versions": record.versions(),
    }
    # the files at a path can change; --redraw uses the stored arrays without reading the images
    provenance |= {} if args.redraw else {"images": _digest(figure, config)}
    stored = _read_stored(folder, provenance, any_code=args.redraw)
    if args.redraw and stored is None:
        raise ValueError(
            f"--redraw: expected {folder / 'arrays.npz'} of this configuration, received none; "
            "run without --redraw"
        )
    began = time.perf_counter()

    def write(result: Result, *, whole: bool) -> list[Check]:
        about = {"seconds": time.perf_counter() - began} | record.circumstances()
        folder.mkdir(parents=True, exist_ok=True)
        header = {"numbers": result.numbers, "about": about, "whole": whole, **provenance}
        _npz.write(folder / "arrays.npz", f"figure {args.name}", result.arrays, header)
        return _draw(figure, folder, result, about | {"whole": whole}, provenance["config"])

    with jax.enable_x64(getattr(config, "x64", False)):
        if stored is not None and not args.again:
            result, about = stored
            print(
                f"{args.name} {args.preset}: already computed, drawing from "
                f"{folder / 'arrays.npz'} (--again computes it again)"
            )
            checks = _draw(figure, folder, result, about | {"whole": True}, provenance["config"])
        else:
            computed = figure.run(
                config, progress=lambda task: print(f"  {args.name}: {task} ...", flush=True)
            )
            result = finished(computed, lambda part: write(part, whole=False))
            checks = write(result, whole=True)
    _report(checks)
    return all(check.passed for check in checks)


def module(name: str) -> Any:
    """Import the module of a figure."""
    return importlib.import_module(FIGURES[name])


def _digest(figure: Any, config: Any) -> str:
    """Hash a figure's images, by its own `digest` or from its Config; "none" without images."""
    if hasattr(figure, "digest"):
        return str(figure.digest(config))
    return images.digest(config) if hasattr(config, "data") else "none"


def _draw(
    module: Any, folder: Path, result: Result, about: dict[str, Any], config: dict[str, Any]
) -> list[Check]:
    """Check and draw a result; write every file except the arrays."""
    checks: list[Check] = module.check(result)
    _files.write_json(folder / "config.json", config)
    with plotting.style():
        plotting.save(module.plot(result), folder)
    summary = (
        {"checks": [check.summary() for check in checks]} | about | {"numbers": result.numbers}
    )
    _files.write_json(folder / "summary.json", summary)
    print(
        f"  computed in {about['seconds']:.1f} s; wrote {folder / 'figure.png'}, "
        f"{folder / 'summary.json'}",
        flush=True,
    )
    return checks


def configured(module: Any, args: Arguments) -> Any:
    """Return the preset with the changes of the command line.

    Raises:
        ValueError: if the figure has no such field, or reads no images but is given some.
    """
    config = getattr(module.Config, args.preset)()
    names = {field.name for field in fields(config)}
    given = {
        name: getattr(args, name)
        for name in ("data", "data_dir")
        if getattr(args, name) is not None
    }
    for name in given.keys() - names:
        raise ValueError(
            f"--{name.replace('_', '-')}: expected no value, received "
            f"{getattr(args, name)}; {args.name} reads no images"
        )
    flags = []
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals or name not in names:
            raise ValueError(
                f"--set: expected FIELD=VALUE with a field among {sorted(names)}, received {item!r}"
            )
        flags += [f"--{name.replace('_', '-')}", *value.split(",")]
    # so that booleans are set like all other fields, by x64=False
    return tyro.cli(
        tyro.conf.configure(tyro.conf.FlagConversionOff)(type(config)),
        default=replace(config, **given),
        args=flags,
    )


def _read_stored(
    folder: Path, provenance: dict[str, Any], *, any_code: bool
) -> tuple[Result, dict[str, Any]] | None:
    """Read a complete stored result of the same provenance; with `any_code`, of the same Config."""
    try:
        arrays, header = _npz.read(folder / "arrays.npz", f"figure {folder.parent.name}", ())
        expected = json.loads(json.dumps(provenance))
        relevant = ["config"] if any_code else list(expected)
        if header["whole"] and all(header.get(name) == expected[name] for name in relevant):
            return Result(arrays, header["numbers"]), header["about"]
    except (OSError, ValueError, KeyError):
        pass  # the file is missing, damaged, or another program's: compute the figure
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
            f"  {failed} of {len(checks)} checks failed. The bounds are set for the images of the "
            "laptop preset. If a premise fails, the claim was not tested."
        )
