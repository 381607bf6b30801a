"""Run one figure: compute, check, draw, and write
results/NAME/PRESET/{summary.json,arrays.npz,config.json,figure.*}.

Running again with the same configuration, images, code and versions only checks and draws anew,
from arrays.npz.
"""

import importlib
import json
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from experiments import images, sources
from experiments.contract import Check, Result, finished
from stepwise import _npz, plotting, record

FIGURES = {
    "fig1": "experiments.fig1_steps",
    "fig2": "experiments.fig2_symmetry",
    "fig3": "experiments.fig3_small_start",
    "fig4": "experiments.fig4_standard_start",
    "fig5": "experiments.fig5_mlp",
    "fig6": "experiments.fig6_hidden",
    "fig7": "experiments.fig7_width",
    "fig8": "experiments.fig8_kernels",
    "table1": "experiments.table1_alignment",
}


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw one figure of the paper."""

    name: tyro.conf.Positional[
        Literal["fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "table1"]
    ]
    """Which figure."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Seconds, minutes, or the source's scale."""
    data: str | None = None
    """photos, cifar10, stl10, folder:PATH or npz:PATH instead of the preset's."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie; without it they are downloaded."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Any other field of the figure's Config."""
    out: str = "results"
    """Folder of the results."""
    again: bool = False
    """Compute anew even if these results are there."""
    redraw: bool = False
    """Only draw, from the arrays that are there, even if the code has changed since."""

    def run(self) -> int:
        """0 when every check passed, 1 when one failed."""
        return 0 if run(self) else 1


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
            f"{args.name}: stopped; call it again: a training run goes on where it was",
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
        "code": sources.code(Path(figure.__file__)),
        "versions": record.versions(),
    }
    # the same path may hold other images by now; --redraw does not ask
    digest = getattr(figure, "digest", images.digest)
    wanted |= {} if args.redraw else {"images": digest(config)}
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


def _draw(
    module: Any, folder: Path, result: Result, about: dict[str, Any], config: dict[str, Any]
) -> list[Check]:
    """Check and draw; write all but the arrays."""
    checks: list[Check] = module.check(result)
    record.write_json(folder / "config.json", config)
    with plotting.style():
        plotting.save(module.plot(result), folder)
    summary = (
        {"checks": [check.summary() for check in checks]} | about | {"numbers": result.numbers}
    )
    record.write_json(folder / "summary.json", summary)
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
