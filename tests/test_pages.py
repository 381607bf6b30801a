"""The generated pages: every law describes itself, and its loss can be called as it says."""

import ast
import inspect
import re
import sys
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import pytest

from stepwise import laws, losses, methods
from stepwise.laws.base import Law
from stepwise.methods import METHODS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import pages

FIELDS = ("title", "call", "mode", "behaviour", "prediction", "domain", "formula")
LAWS = pages.described_laws()
SIGMA = jnp.array([[1.0, 0.3, 0.0], [0.3, 0.9, 0.1], [0.0, 0.1, 0.8]])
ARGUMENTS = {
    "gamma": jnp.array([0.6, 0.3, 0.1]),
    "sigma": SIGMA,
    "g": jnp.array([0.6, 0.3, 0.1]),
    "sigma1": SIGMA,
    "sigma2": SIGMA,
    "m": jnp.array([0.6, 0.3, -0.1]),
    "target": jnp.ones(3),
    "temperature": 0.5,
    "offset": 2.0,
    "invariance": 1.0,
    "variance": 1.0,
    "predictor": 0.1,
    "prototypes": 3,
    "layers": 2,
    "scale": 2.0,
    "d": 3,
}


@pytest.fixture(params=LAWS, ids=lambda law: law.__name__)
def law(request):
    return request.param


def test_every_exported_law_is_described():
    exported = {
        each
        for name in laws.__all__
        if isinstance(each := getattr(laws, name), type) and issubclass(each, Law)
    }
    chooser = {Law, laws.SimCLR}
    assert exported - chooser <= set(LAWS)
    assert len({law.title for law in LAWS}) == len(LAWS)


def test_a_law_has_all_descriptions(law):
    for name in FIELDS:
        assert name in vars(law), f"{law.__name__} has no {name} of its own"
        assert getattr(law, name) == getattr(law, name).strip() != ""
    assert law.behaviour.endswith(".") and law.prediction.endswith(".")
    assert "$" not in law.mode and law.mode.count("{") == law.mode.count("}")
    kinds = r"(closed form( of t\(λ\), inverted)?|integrated)(, for the first mode)?"
    assert re.fullmatch(kinds, law.curves)


def test_the_call_of_a_law_can_be_made(law):
    calls = pages.CALL.findall(law.call)
    assert calls or law.call.startswith("no function of stepwise.losses: ")
    assert len(calls) == len(re.findall(r"losses\.\w", law.call))
    for text in calls:
        call = ast.parse(text, mode="eval").body
        function = getattr(losses, call.func.attr)
        options = {option.arg: option.value for option in call.keywords}
        inspect.signature(function).bind(*call.args, **options)


def test_a_law_accepts_the_second_moments_that_it_says(law):
    needed = [each.name for each in fields(law) if each.default is MISSING]
    needed += ["offset"] if law.__name__.startswith("Cosine") else []
    build = partial(law, **{name: ARGUMENTS[name] for name in needed})
    if law.second_moment == "must be diagonal in the modes":
        with pytest.raises(ValueError, match="diagonal"):
            build()
    else:
        takes = any(name.startswith("sigma") for name in needed)
        assert takes == (law.second_moment != "does not enter the law")
        assert takes == law.second_moment.startswith("any")
        build()


def test_the_page_names_every_law_and_its_loss():
    page = pages.laws_page()
    assert "<!-- generated" not in page
    for law in LAWS:
        assert f"\n### {law.__name__}\n" in page
        assert page.count(f"(laws.md#{law.__name__.lower()})") == 2
        assert page.count(law.title) >= 2 and page.count(law.prediction.split("|")[0]) == 2


def test_the_page_of_methods_links_to_the_law_of_every_method_with_one():
    page = pages.methods_page()
    described = {law.__name__ for law in LAWS}
    for row in METHODS.values():
        (line,) = (line for line in page.splitlines() if f"| `{row.name}` |" in line)
        names = re.findall(r"\[(\w+)\]\(laws\.md#\w+\)", line)
        assert len(names) == (row.law is not None) and set(names) <= described


def test_a_law_of_a_user_needs_no_description():
    row = methods.Method("x", "X", "me", methods.Objective(losses.vicreg), law=laws.DEFAULT)
    assert pages.law_of_row(row) == "[BarlowTwins](laws.md#barlowtwins)"
    assert Law.title == Law.call == ""


def test_the_page_on_laws_is_up_to_date():
    written = (pages.TEMPLATE.parent / "laws.md").read_text(encoding="utf-8")
    assert written == pages.laws_page(), "run `make docs` and commit docs/laws.md"
