import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import _check


@pytest.mark.parametrize(
    "value", [[1, 2], (1.5,), np.uint8([3]), np.float16([1]), jnp.ones(2), 3, np.float64(2)]
)
def test_real_numbers_of_any_kind_are_converted_to_floats(value, dtype):
    out = _check.real_array("v", value)
    assert jnp.issubdtype(out.dtype, jnp.floating)
    np.testing.assert_array_equal(np.asarray(out, float), np.asarray(value, float))
    if np.asarray(value).dtype.kind in "iu":
        assert out.dtype == dtype


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abc", r"v: expected real numbers, received 'abc'"),
        (None, r"v: expected real numbers, received None"),
        ([1 + 1j], r"v: expected real numbers, received complex128 \[1\]"),
        ([True], r"v: expected real numbers, received bool \[1\]"),
        ([[1.0]], r"v: expected an array of rank 0 or 1, received float64 \[1, 1\]"),
        ([1, np.nan, np.inf], r"v: expected finite entries, received 2 of 3 not finite"),
        (jnp.array([jnp.nan]), r"v: expected finite entries, received 1 of 1 not finite"),
    ],
)
def test_an_error_says_what_was_expected_and_received(value, message):
    with pytest.raises(ValueError, match=message):
        _check.real_array("v", value, ndim=(0, 1))


def test_entries_are_not_checked_under_a_trace():
    out = jax.jit(lambda v: _check.real_array("v", v, ndim=1))(jnp.array([jnp.nan, 1]))
    assert np.isnan(out[0])
    with pytest.raises(ValueError, match=r"v: expected an array of rank 2, received float32 \[2\]"):
        jax.jit(lambda v: _check.real_array("v", v, ndim=2))(jnp.ones(2))
