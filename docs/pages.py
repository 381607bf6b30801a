"""The pages that are generated from the package: the methods, and the laws of their losses."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stepwise import laws, losses, problem
from stepwise.laws import Law
from stepwise.methods import METHODS, Method

TEMPLATE = Path(__file__).parent / "laws_template.md"
MARK = re.compile(r"^<!-- generated: (\w+) -->$", flags=re.M)
CALL = re.compile(r"losses\.\w+\((?:[^()]|\([^()]*\))*\)")
"""A call in `Law.call`, whose arguments may be calls too."""


def described_laws() -> list[type[Law]]:
    """Return the classes of `stepwise.laws` that are the law of a loss, sorted by its name.

    An exported class without a `call` of its own stands for its subclasses in the package.
    """
    classes: list[type[Law]] = []
    for name in laws.__all__:
        exported = getattr(laws, name)
        if isinstance(exported, type) and issubclass(exported, Law) and exported is not Law:
            parts = [each for each in exported.__subclasses__() if _is_ours(each)]
            classes += parts if parts and "call" not in vars(exported) else [exported]
    return sorted(dict.fromkeys(classes), key=lambda law: law.title.lower())


def laws_page() -> str:
    """Return the page on laws: the template with its tables and sections."""
    described = described_laws()
    parts = {
        "calls": calls_table(described),
        "predictions": predictions_table(described),
        "sections": "\n\n".join(map(law_section, described)),
    }
    return MARK.sub(lambda mark: parts[mark[1]], TEMPLATE.read_text(encoding="utf-8"))


def calls_table(described: list[type[Law]]) -> str:
    """Return a table with the call of `stepwise.losses` that each law describes."""
    rows = [(law.title, exact_call(law), link(law)) for law in described]
    return table(("loss", "exact for", "law"), rows)


def predictions_table(described: list[type[Law]]) -> str:
    """Return a table with what only each law predicts."""
    return table(("law", "prediction"), [(link(law), law.prediction) for law in described])


def law_section(law: type[Law]) -> str:
    """Return the section of one law."""
    start = "acts" if law.rotates else "does not act"
    return "\n".join(
        [
            f"### {law.__name__}",
            "",
            f"{law.title}: `{law.formula}`",
            "",
            f"$$\n{law.mode}\n$$",
            "",
            f"- **Exact for:** {exact_call(law)}",
            f"- **Domain:** {law.domain}",
            f"- **Observable:** {law.observable}",
            f"- **From a small start:** {law.behaviour}",
            f"- **Alone among the laws:** {law.prediction}",
            f"- **Curves:** {law.curves}",
            f"- **Σ:** {law.second_moment}",
            f"- **Rotations:** a small generic start {start} as an aligned one",
        ]
    )


def methods_page() -> str:
    """Return the tables of methods: what each one minimises, and how it is trained."""
    rows, trained = [], []
    for row in METHODS.values():
        objective = row.objective
        parts = [f"`losses.{objective.loss.__name__}`"]
        parts += ["a predictor"] if objective.predictor else []
        parts += [f"a target network ({objective.decay})"] if objective.decay is not None else []
        rows.append((row.title, f"`{row.name}`", ", ".join(parts), law_of_row(row), row.paper))
        for occasion, plan in row.schedules.items():
            if "tiny" not in occasion:
                start = f"scale {row.start.scale:g}, offset {row.start.offset:g}"
                start += "".join(f", `{name}={value!r}`" for name, value in row.small.items())
                start = start if occasion == "small" else "as published"
                if plan.temperature is not None:
                    start += f", temperature {plan.temperature:g}"
                start += "".join(
                    f", `{name}={value:g}`" for name, value in plan.loss_options.items()
                )
                cosine = "cosine" if plan.cosine else "constant"
                trained.append(
                    f"| {row.title} | {occasion} | {start} | {plan.lr:g} | {plan.steps:,} | "
                    f"{plan.warmup:,} | {cosine} |"
                )
    return "\n".join(
        [
            "# Methods",
            "",
            "Every method is one row of `stepwise.methods.METHODS`, the source of this page. "
            "[Extending](extending.md) shows how to add one.",
            "",
            table(("method", "name", "loss", "law", "paper"), rows),
            "",
            "`law` names the class of `stepwise.laws` that `stepwise predict` uses for the method, "
            "and the form of the loss for which it is exact, if that is another form. "
            "[Laws](laws.md) also lists laws that no method uses.",
            "",
            "## How they are trained here",
            "",
            "SGD with momentum 0.9 on batches of 64 pairs; a ResNet with four blocks and width 16. "
            "A small start multiplies the weights of the head's last layer by `scale`. `offset` is "
            "the norm of its bias, for losses that do not depend on the size of the embedding. "
            "Other settings are those of `runs.Config`.",
            "",
            "| method | start | settings of the start | rate | steps | warm-up | then |",
            "|---|---|---|---:|---:|---:|---|",
            *trained,
            "",
        ]
    )


def law_of_row(row: Method) -> str:
    """Return a link to the law of a method, and the form of the loss if it is another one."""
    if row.law is None:
        return "none"
    x, noise = (jax.random.normal(jax.random.key(seed), (64, 4)) for seed in (0, 1))
    x = x * jnp.array([2.0, 1.5, 1.0, 0.5])[None]
    pairs = problem.from_views(x, x + noise / 4)
    name = link(type(laws.law_of(row.law, pairs, 2)))
    if row.law_loss is None or row.law_loss is row.objective.loss:
        return name
    return f"{name} of {describe_loss(row.law_loss)}"


def describe_loss(loss: Callable[..., Any]) -> str:
    """Return the name of a loss of the package, or the first line that describes another one."""
    if loss.__module__ == losses.__name__:
        return f"`losses.{loss.__name__}`"
    first = (loss.__doc__ or loss.__name__).strip().split("\n")[0]
    return first.removeprefix("Compute ").removesuffix(".")


def exact_call(law: type[Law]) -> str:
    """Return the call of `stepwise.losses` that a law describes, as code, and its conditions."""
    return CALL.sub(lambda call: f"`{call[0]}`", law.call)


def link(law: type[Law]) -> str:
    """Return a link to the section of a law, or the name of a law that has none."""
    if law not in described_laws():
        return f"`{law.__name__}`"
    return f"[{law.__name__}](laws.md#{law.__name__.lower()})"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _is_ours(law: type[Law]) -> bool:
    return law.__module__.startswith("stepwise.")
