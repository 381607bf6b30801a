import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import kernels
from stepwise.neural_tangents import nt

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(5, 4, 3)), RNG.normal(size=(7, 4, 3))


def pairs(f):
    return np.array([[f(a.ravel(), b.ravel()) for b in B] for a in A])


@pytest.mark.parametrize(
    ("kernel", "formula"),
    [
        (kernels.linear(), np.dot),
        (kernels.rbf(1.7), lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * 1.7**2))),
        (kernels.polynomial(3, scale=0.5, offset=2), lambda a, b: (0.5 * a @ b + 2) ** 3),
    ],
    ids=["linear", "rbf", "polynomial"],
)
def test_values_are_those_of_the_formula(kernel, formula, dtype):
    values = kernel(A.astype(dtype), B.astype(dtype))
    assert values.dtype == dtype
    np.testing.assert_allclose(
        values, pairs(formula), rtol=1e-12 if dtype == "float64" else 2e-4, atol=1e-5
    )


def test_a_common_mean_does_not_cost_the_rbf_kernel_digits():
    far = kernels.rbf(1.0)(A.astype("float32") + 100, B.astype("float32") + 100)
    np.testing.assert_allclose(
        far, pairs(lambda a, b: np.exp(-np.sum((a - b) ** 2) / 2)), atol=2e-4
    )


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 8), m=st.integers(1, 5), index=st.integers(0, 2)
)
def test_every_kernel_is_symmetric_and_positive_semi_definite(seed, n, m, index):
    kernel = (kernels.linear(), kernels.rbf(0.8), kernels.polynomial(2))[index]
    x = np.random.default_rng(seed).normal(size=(n, m))
    with jax.enable_x64(True):
        K = np.asarray(kernel(x, x))
    np.testing.assert_allclose(K, K.T, rtol=1e-12)
    assert np.linalg.eigvalsh(K).min() > -1e-9 * max(1, np.abs(K).max())


def test_a_wide_network_has_the_kernel_of_infinite_width(x64):
    stax = nt.stax
    layers = [stax.Dense(4096), stax.Relu(), stax.Dense(1)]
    init, apply, _ = stax.serial(*layers)
    x = jnp.asarray(A.reshape(5, -1))
    k = kernels.infinite_width(layers)(x, x)
    finite = np.mean(
        [
            nt.empirical_ntk_fn(apply)(x, None, init(jax.random.key(i), (-1, 12))[1])
            for i in range(8)
        ],
        axis=0,
    )
    np.testing.assert_allclose(finite, k, atol=4 * np.abs(k).max() / np.sqrt(8 * 4096))


@pytest.mark.parametrize(
    "pooling", [[nt.stax.Flatten()], [nt.stax.GlobalAvgPool()]], ids=["flatten", "pool"]
)
@pytest.mark.parametrize("shape", [(3, 48), (3, 6, 8), (3, 4, 4), (3, 4, 4, 4, 3)])
def test_a_convolution_names_the_shape_that_it_expects(shape, pooling):
    convolution = [
        nt.stax.Conv(1, (3, 3), padding="SAME"),
        nt.stax.Relu(),
        *pooling,
        nt.stax.Dense(1),
    ]
    images = RNG.normal(size=(3, 4, 4, 3)).astype("float32")
    assert kernels.infinite_width(convolution)(images, images).shape == (3, 3)
    x = np.ones(shape, "float32")
    with pytest.raises(
        ValueError, match=r"inputs: expected .* \[n, h, w, c\] .* received float32 \[3, \d+"
    ) as error:
        kernels.gram(kernels.infinite_width(convolution), x)
    assert str(list(shape)) in str(error.value)
    flat = kernels.infinite_width(
        [nt.stax.Flatten(), nt.stax.Dense(1), nt.stax.Relu(), nt.stax.Dense(1)]
    )
    np.testing.assert_allclose(flat(x, x), flat(x.reshape(3, -1), x.reshape(3, -1)), rtol=1e-6)


def test_kernels_compare_and_hash_by_their_parameters():
    assert kernels.rbf(1.0) == kernels.rbf(1) and hash(kernels.rbf(1.0)) == hash(kernels.rbf(1))
    assert kernels.rbf(1.0) != kernels.rbf(2.0) and kernels.polynomial(2) != kernels.polynomial(3)
    assert repr(kernels.rbf(1.0)) == "RBF(length=1.0)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.rbf(0), "length: expected a positive number, received 0"),
        (lambda: kernels.polynomial(0), "degree: expected a positive whole number, received 0"),
        (lambda: kernels.polynomial(2, scale=-1), "scale: expected a positive number"),
        (lambda: kernels.polynomial(2, offset=-1), "offset: expected zero or a positive number"),
        (
            lambda: kernels.infinite_width([]),
            r"layers: expected a list of stax layers .*received \[\]",
        ),
        (
            lambda: kernels.infinite_width([1]),
            r"layers: expected a list of stax layers .*received \[1\]",
        ),
        (
            lambda: kernels.linear()(A, B[:, :2]),
            r"b: expected inputs of shape \[4, 3\] as a, received float64 \[7, 2, 3\]",
        ),
        (
            lambda: kernels.infinite_width([nt.stax.Relu()])(A, B[:, :2]),
            r"b: expected inputs of shape \[4, 3\]",
        ),
        (
            lambda: kernels.infinite_width([nt.stax.Dense(8), nt.stax.Relu(), nt.stax.Dense(1)])(
                A, B
            ),
            r"layers: expected layers that end in one value per input \(stax.Flatten\(\) .* kernel "
            r"values",
        ),
        (
            lambda: kernels.linear()(np.ones(3), np.ones(3)),
            "a: expected inputs .* of at least two axes",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()
