"""The table of methods: its rows agree with their losses and laws, and files can define rows."""

import runpy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stepwise import (
    compare,
    dynamics,
    growth,
    laws,
    losses,
    methods,
    models,
    problem,
    spectra,
    training,
    validity,
    views,
)
from stepwise.methods import METHODS, Method, Objective, theory
from stepwise.training import Plan, ownership, runs
from stepwise.training.step import Step
from tests.laws import pairs
from tests.training import small

ROWS = METHODS.values()


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request):
    return request.param


def test_names_are_keys_and_titles_are_all_different():
    assert all(name == row.name for name, row in METHODS.items())
    assert len({row.title for row in ROWS}) == len(METHODS)
    assert len({(row.colour, row.marker, *row.schedules) for row in ROWS}) == len(METHODS)


def value(objective, z):
    """Return an objective's first loss of views that all have the embeddings z."""
    arguments = {
        name: function(z.shape[1])
        for name in ("state", "parameters")
        if (function := getattr(objective, name)) is not None
    }
    networks = 1 if objective.decay is None else 2
    loss = objective.loss(*[z] * (networks * objective.views), **arguments)
    return loss if objective.state is None else loss[0]


def test_the_value_at_full_collapse_is_that_of_the_loss(row, x64):
    n, d = 7, 5
    z = np.tile(np.random.default_rng(0).normal(size=d), (n, 1))
    z *= row.collapse_norm / np.linalg.norm(z[0])
    expected = row.collapse(n, d)
    np.testing.assert_allclose(value(row.objective, z), expected, rtol=1e-5, atol=1e-9)


def test_a_row_trains(row):
    """Every objective decreases, with its predictor, target network, state and parameters.

    The loss of IsoLoss does not, as the law says: it rises while modes are learned.
    """
    objective = row.objective
    predictor = models.Head(4, [6, 4], rngs=nnx.Rngs(1)) if objective.predictor else None
    program = Step(small.encoder(), small.PIXELS, objective, plan(), predictor, None)
    state = program.start()
    before = state["loss"], state["params"].get("loss", {})
    first = float(program.evaluate_probe(state)[2])
    state = program.advance(jax.tree.map(jnp.copy, state), 12)
    after = state["loss"], state["params"].get("loss", {})
    assert bool(state["ok"]) and int(state["step"]) == 12
    last = float(program.evaluate_probe(state)[2])
    assert last != first if "IsoLoss" in row.title else last < first
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.any(np.asarray(old) != np.asarray(new))


def small_loss(row, d):
    """The loss of a method near zero, as a function of two embeddings."""
    loss = row.law_loss or row.objective.loss
    if row.objective.predictor:
        p = theory.PREDICTOR
        return lambda z1, z2: loss(p * z1, p * z2, z1, z2)
    if row.objective.state is not None and row.law_loss is None:  # DINO, its own teacher
        return lambda z1, z2: losses.dino(z1, z2, z1, z2, jnp.zeros(d))
    if row.start.offset:
        b = jnp.zeros(d).at[-1].set(row.start.offset)
        return lambda z1, z2: loss(z1 + b[None], z2 + b[None])
    return loss


@pytest.mark.parametrize("row", [row for row in ROWS if row.law], ids=lambda row: row.name)
def test_the_law_of_a_method_grows_as_its_loss(row, x64):
    """Moments have no common eigenbasis here, and every pair is in both orders."""
    d, rng = 3, np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 4)) * np.geomspace(1, 0.3, 4), rng.normal(size=(40, 4)) / 4
    a = a[0] - a[0].mean(axis=0)
    b = (b - b.mean(axis=0)) @ rng.normal(size=(4, 4))
    x, x2 = np.concatenate([a + b, a - b]), np.concatenate([a - b, a + b])
    p = problem.from_views(x, x2, center="pooled")
    law = laws.law_of(row.law, p, d)
    rates = growth.rates(small_loss(row, d), p, d=d, modes=2, scale=1e-8).rates
    first = np.sort(np.asarray(law.growth()))[::-1][:2]
    np.testing.assert_allclose(first, rates, rtol=1e-3)


@pytest.mark.parametrize("row", [row for row in ROWS if row.law], ids=lambda row: row.name)
def test_every_solver_of_the_theory_takes_the_law_of_a_method(row, x64):
    gamma, sigma = np.array([0.8, 0.5, 0.15]), np.array([1.0, 0.9, 0.8])
    p = problem.from_views(*pairs.both_orders(*pairs.pairs(gamma, sigma, 30)), center="pooled")
    law = laws.law_of(row.law, p, 3)
    report = validity.report(p, 3, law=row.law, start_scale=1e-8)
    known = report.step_times[: report.n_known]
    assert np.isfinite(known[: report.n_positive]).all() and (np.diff(known) > 0).all()
    rows = law.aligned_start(1e-16 * np.exp(law.expected_start(3)[0]))
    A0 = np.pad(rows, ((0, 3 - len(rows)), (0, 0)))
    run = dynamics.closed_form(
        p, A0, np.linspace(0, 3 * known[np.isfinite(known)].max(), 300), law=law
    )
    steps = spectra.step_times(run.times, run.eigenvalues / np.asarray(run.rest)[None].clip(1e-9))
    np.testing.assert_allclose(steps[: len(known)], known, rtol=0.02)
    assert np.isfinite(run.loss).all()
    same = compare.compare(run, run, law=law)
    assert same.eigenvalue_rms == 0


def test_the_recipe_and_the_schedules_of_a_method_can_be_used(row):
    assert row.recipe in views.RECIPES
    for occasion, schedule in row.schedules.items():
        config = training.Config.for_method(row.name, occasion)
        assert (config.lr, config.steps) == (schedule.lr, schedule.steps)
        assert (config.warmup, config.cosine) == (schedule.warmup, schedule.cosine)
        small = occasion.startswith("small")
        assert config.start_scale == (row.start.scale if small else 1.0)


def test_a_loss_that_collapses_without_a_predictor_is_refused_without(row):
    if row.objective.predictor:
        with pytest.raises(ValueError, match="predictor=True for a loss that collapses without"):
            step(Objective(row.objective.loss))


def test_no_name_means_the_default_and_an_unknown_name_is_refused_with_the_known_ones():
    assert methods.find("") is METHODS[methods.DEFAULT]
    with pytest.raises(ValueError, match=r"method: expected one of .*simclr.*, or FILE.py:NAME"):
        methods.find("nope")
    with pytest.raises(
        ValueError, match=r"an existing file in FILE.py:NAME, received 'nowhere.py:row'"
    ):
        methods.find("nowhere.py:row")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row = 3", "expected a stepwise.methods.Method, received a int"),
        ("other = 3", "expected a stepwise.methods.Method, received nothing of that name"),
        (
            "import numpy\nrow = 1 / 0",
            r"expected a file that runs without error, .* ZeroDivisionError.*line 2",
        ),
        ("row = (", "expected a file that runs without error, received SyntaxError"),
    ],
)
def test_a_file_without_the_row_is_refused_in_one_line(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        methods.find(f"{file}:row")
    assert "\n" not in str(error.value)


def test_a_row_in_a_file_is_identified_by_content_and_not_by_path(tmp_path):
    text = (
        "from stepwise import losses\nfrom stepwise.methods import Method, Objective\n"
        "row = Method('mine', 'Mine', 'me', Objective(losses.vicreg))\n"
    )
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    a.write_text(text)
    b.write_text(text)
    assert methods.find(f"{a}:row").title == "Mine"
    assert (
        methods.identity(f"{a}:row") == methods.identity(f"{b}:row") != methods.identity("vicreg")
    )
    b.write_text(text + "# changed\n")
    assert methods.identity(f"{a}:row") != methods.identity(f"{b}:row")


def test_the_error_for_a_method_without_a_law_names_those_with_one():
    lawless = Method("own", "own", "none", Objective(losses.vicreg))
    with pytest.raises(ValueError, match=f"a method with a law .*{methods.DEFAULT}.*'own'"):
        lawless.require_law()
    assert METHODS[methods.DEFAULT].require_law() is METHODS[methods.DEFAULT].law


# Losses with a running centre that receives no gradient, a learned temperature, and more views


def centred(z1, z2, *, state, pull=0.5):
    """Add a pull of the batch mean to a running centre, which moves a tenth of the way to it."""
    mean = (z1.mean(0) + z2.mean(0)) / 2
    loss = losses.barlow_twins_unnormalised(z1, z2) + pull * jnp.sum((mean - state["c"]) ** 2)
    return loss, {"c": 0.9 * state["c"] + 0.1 * mean, "count": state["count"] + 1}


def first_state(d):
    return {"c": jnp.ones(d), "count": jnp.asarray(0)}


def plan(**options):
    recipe = views.crops(6)
    return Plan(12, 8, 0.02, partial(optax.sgd, momentum=0.9), recipe, probe=16, **options)


def step(objective):
    return Step(small.encoder(), small.PIXELS, objective, plan(), None, None)


def trained(objective, folder=None, **options):
    return training.train(small.encoder(), small.PIXELS, objective, plan(**options), folder=folder)


def test_the_state_of_a_loss_follows_its_own_rule_and_receives_no_gradient(x64):
    program = step(Objective(centred, state=first_state))
    state = program.start()
    np.testing.assert_array_equal(state["loss"]["c"], np.ones(4))
    centre = np.ones(4)
    for i in range(3):
        before = state["loss"]
        state = program.advance(jax.tree.map(jnp.copy, state), 1)
        moved = (np.asarray(state["loss"]["c"]) - 0.9 * centre) / 0.1
        centre = np.asarray(state["loss"]["c"])
        assert state["loss"]["count"] == i + 1
        assert np.isfinite(moved).all() and not np.allclose(centre, before["c"])
    assert "loss" not in state["params"]


def test_a_run_whose_loss_has_a_state_resumes_to_the_same_bits(tmp_path, monkeypatch):
    objective = Objective(centred, state=first_state)
    whole = trained(objective, tmp_path / "whole", checkpoint_every=4)
    run = partial(trained, objective, tmp_path / "part", checkpoint_every=4, dispatch=4)
    small.interrupt(run, monkeypatch, after=8)
    resumed = run()
    for name, value in small.numbers(whole).items():
        np.testing.assert_array_equal(value, small.numbers(resumed)[name], err_msg=name)


def tempered(z1, z2, *, parameters):
    return losses.simclr(z1, z2, temperature=jnp.exp(parameters["log_temperature"]))


def test_a_learned_temperature_is_trained_with_the_network():
    objective = Objective(tempered, parameters=lambda d: {"log_temperature": jnp.log(0.5)})
    program = step(objective)
    state = program.start()
    _, _, slopes = program.gradient(state)
    slope = float(slopes["loss"]["log_temperature"])
    assert abs(slope) > 1e-3
    state = program.advance(state, 1)
    moved = float(state["params"]["loss"]["log_temperature"]) - np.log(0.5)
    np.testing.assert_allclose(moved, -0.02 * slope, rtol=1e-4)


def three(z1, z2, z3):
    return (
        losses.barlow_twins_unnormalised(z1, z2)
        + losses.barlow_twins_unnormalised(z2, z3)
        + losses.barlow_twins_unnormalised(z3, z1)
    )


def test_a_loss_of_three_views_receives_three_views_of_which_two_are_the_pair():
    three_views = step(Objective(three, views=3))
    two_views = step(Objective(losses.vicreg))
    for a, b in zip(three_views.probe[:2], two_views.probe, strict=True):
        np.testing.assert_array_equal(a, b)
    a, b, c = three_views.probe
    assert not np.allclose(a, c) and not np.allclose(b, c)
    done = trained(Objective(three, views=3))
    assert done.finished and done.trajectory.loss[-1] < done.trajectory.loss[0]


def test_a_run_with_another_loss_state_is_another_run(tmp_path):
    trained(Objective(centred, state=first_state), tmp_path)
    with pytest.raises(ValueError, match=r"it differs in \['objective'\]"):
        trained(Objective(losses.barlow_twins_unnormalised), tmp_path)


def test_a_row_is_frozen_and_can_be_varied():
    row = METHODS["vicreg"]
    with pytest.raises(AttributeError):
        row.title = "other"
    assert isinstance(replace(row, title="other"), Method)


@pytest.mark.parametrize(
    ("first", "after"),
    [
        (jnp.zeros((), jnp.int32), lambda c: c + 1.5),
        (jnp.zeros(()), lambda c: jnp.zeros(3)),
        (jnp.zeros(()), lambda c: {"c": c}),
    ],
)
def test_a_state_that_changes_its_form_is_refused_before_training(first, after):
    def loss(z1, z2, *, state):
        return losses.barlow_twins_unnormalised(z1, z2), after(state)

    with pytest.raises(ValueError, match="the next state of the loss in the form of the first"):
        step(Objective(loss, state=lambda d: first))


def test_a_loss_that_is_not_a_number_is_refused_before_training():
    with pytest.raises(ValueError, match="objective: expected a loss that is one real number"):
        step(Objective(lambda z1, z2: (z1 - z2).sum(axis=1)))


def test_bad_views_and_occasions_are_refused():
    with pytest.raises(ValueError, match=r"Objective\.views: expected a whole number from 2"):
        Objective(losses.vicreg, views=1)
    with pytest.raises(ValueError, match=r"occasion: expected one of .* received 'standrad'"):
        training.Config.for_method("vicreg", "standrad")


def test_a_row_in_a_file_is_identified_also_by_the_modules_in_its_folder(tmp_path):
    text = (
        "from stepwise import losses\nfrom stepwise.methods import Method, Objective\n"
        "import beside_the_row\n"
        "row = Method('mine', 'Mine', 'me', Objective(losses.vicreg))\n"
    )
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "beside_the_row.py").write_text("K = 0")
    name = f"{tmp_path / 'mine.py'}:row"
    assert methods.find(name).title == "Mine"
    before = methods.identity(name)
    (tmp_path / "beside_the_row.py").write_text("K = 5")
    assert methods.identity(name) != before


def test_an_error_in_a_users_loss_is_one_line_with_the_line_number(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def loss(z1, z2):\n    return nothing\n")
    name = f"{file}:row"
    with pytest.raises(ValueError, match=r"received NameError: .*nothing.* \(line 2\)") as error:
        methods.run_with(name, lambda: runpy.run_path(str(file))["loss"](0, 0))
    assert "\n" not in str(error.value)


def test_an_optimiser_is_recognised_in_runs_of_the_former_module():
    """Folders of runs from before a module moved still match."""
    description = ownership._describe_function(runs.plan(training.Config()).optimiser)
    assert description.startswith("stepwise.runs.plan.")
