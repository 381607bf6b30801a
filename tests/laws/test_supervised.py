"""The supervised law: relaxation to targets, without a plateau."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import laws, validity
from stepwise.dynamics import closed_form, descent, flow
from stepwise.laws import BarlowTwins, Supervised
from tests import problems


@given(t=st.floats(0, 10))
@settings(max_examples=10)
def test_the_supervised_law_relaxes_exponentially_to_its_one_fixed_point(t):
    with jax.enable_x64(True):
        law = Supervised([1.0, 0.5, 0.0], [1.0, -2.0, 3.0])
        s = law.singular_values([t], [0.1, 0.1, 0.1])[0]
    np.testing.assert_allclose(
        s, [1 - 0.9 * np.exp(-t), -2 + 2.1 * np.exp(-t / 2), 0.1], rtol=1e-12, atol=1e-14
    )


def test_a_target_of_another_size_is_rejected():
    with pytest.raises(
        ValueError, match=r"target: expected shape \[2\] as gamma, received float32 \[3\]"
    ):
        Supervised(np.ones(2, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize("sign", [1, -1])
def test_self_supervised_modes_break_a_symmetry_and_supervised_ones_do_not(sign, x64):
    gamma, s0 = np.array([1.0]), np.array([sign * 1e-3])
    supervised = Supervised(gamma, np.ones(1)).singular_values([50.0], s0)[0, 0]
    self_supervised = s0 * BarlowTwins(gamma).amplitude([50.0], gamma * s0**2)[0]
    np.testing.assert_allclose([supervised, self_supervised[0]], [1, sign], rtol=1e-12)


GAMMA, TARGET = np.array([0.5, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])


def supervised(p, d):
    return Supervised(np.asarray(p.gamma), TARGET)


def test_its_flow_and_its_descent_follow_its_curves(x64):
    p = problems.modes(np.sort(GAMMA)[::-1])
    law = supervised(p, 2)
    A0 = np.asarray(law.aligned_start([0.01, 0.04]))
    times = np.linspace(0, 3, 7)
    expected = np.sort(law.eigenvalues(times, [0.01, 0.04]), axis=1)[:, ::-1]
    run = flow(p, A0, times, law=supervised, rtol=1e-9)
    np.testing.assert_allclose(run.eigenvalues, expected, rtol=1e-6)
    np.testing.assert_allclose(run.loss, law.loss(times, [0.01, 0.04]), rtol=1e-6)
    assert run.observable == "W Wᵀ" and run.result.name == "converged"
    small = descent(p, A0, 1e-4, 30_000, law=supervised)
    np.testing.assert_allclose(small.eigenvalues[-1], expected[-1], rtol=1e-3)
    assert float(small.stats["lr_limit"]) == 1.0
    assert descent(p, A0, 0.1, 100, law=supervised).result.name == "converged"


def test_step_times_are_crossings_and_infinite_if_out_of_reach(x64):
    law = Supervised(GAMMA, TARGET * [1, -1, 1])
    np.testing.assert_array_equal(law.order, [1, 2, 0])
    tau = law.step_times([0.01, 0.01, 0.01])
    assert tau[0] == np.inf
    values = np.diagonal(law.eigenvalues(tau[1:], [0.01, 0.01, 0.01])[:, 1:])
    np.testing.assert_allclose(values, [4.5, 0.5], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("growth", ()),
        ("grows", ()),
        ("takeover", (0, 1)),
        ("next_growth", ([0],)),
        ("descent_delay", (0.1, [0.1])),
    ],
)
def test_properties_that_do_not_exist_raise_with_the_reason(name, arguments):
    law = Supervised(GAMMA, TARGET)
    with pytest.raises(laws.NotKnownError, match=f"{name}: .* with a plateau, received Supervised"):
        getattr(law, name)(*arguments)


def test_functions_that_need_a_plateau_reject_the_law(x64):
    p = problems.modes(np.sort(GAMMA)[::-1])
    with pytest.raises(
        ValueError, match="law: expected a law whose loss is invariant under rotations"
    ):
        closed_form(p, np.ones((2, 3)), [1.0], law=supervised)
    with pytest.raises(
        ValueError, match="law: expected a law whose loss is invariant under rotations"
    ):
        validity.report(p, 2, start_scale=1e-3, law=supervised)
