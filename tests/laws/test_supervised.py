"""The supervised law: relaxation to targets, without a plateau."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise.laws import BarlowTwins, Supervised


@given(t=st.floats(0, 10))
@settings(max_examples=10)
def test_the_supervised_law_relaxes_exponentially_to_its_one_fixed_point(t):
    with jax.enable_x64(True):
        law = Supervised([1.0, 0.5, 0.0], [1.0, -2.0, 3.0])
        s = law.singular_values([t], [0.1, 0.1, 0.1])[0]
    np.testing.assert_allclose(
        s, [1 - 0.9 * np.exp(-t), -2 + 2.1 * np.exp(-t / 2), 0.1], rtol=1e-12, atol=1e-14
    )


def test_the_supervised_law_refuses_a_target_of_another_size():
    with pytest.raises(
        ValueError, match=r"target: expected shape \[2\] as gamma, received float32 \[3\]"
    ):
        Supervised(np.ones(2, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize("sign", [1, -1])
def test_self_supervised_modes_break_a_symmetry_and_supervised_ones_do_not(sign, x64):
    gamma, s0 = np.array([1.0]), np.array([sign * 1e-3])
    told = Supervised(gamma, np.ones(1)).singular_values([50.0], s0)[0, 0]
    found = s0 * BarlowTwins(gamma).amplitude([50.0], gamma * s0**2)[0]
    np.testing.assert_allclose([told, found[0]], [1, sign], rtol=1e-12)
