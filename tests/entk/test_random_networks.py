"""All functions that compute a kernel agree with plain Jacobians on random small networks."""

import numpy as np
import pytest

from tests.entk import random_networks


@pytest.mark.parametrize("seed", range(50))
def test_kernels_of_a_random_network_agree_with_its_jacobians(seed, x64):
    network = random_networks.draw(seed)
    gaps = random_networks.differences(network, products=seed % 3 == 0)
    assert max(gaps.values()) < 1e-9, (network.name, gaps)


def test_the_drawn_networks_cover_all_kinds():
    names = {name for seed in range(50) for name in random_networks.draw(seed).name.split(", ")}
    assert {"choosy_layer", "picky_layer", "spectral", "tokens", "image", "scan", "tied"} <= names


def test_the_reference_counts_both_parts_of_a_complex_parameter(x64):
    """f(w) = Re(w z) has gradient (Re z, −Im z) in the parts of w."""
    z = np.array([[1.0 + 2j], [3 - 1j]])
    network = random_networks.Network(
        "", lambda p, x: (x[:, :1] * p["w"] + 1j * x[:, 1:] * p["w"]).real,
        {"w": np.array(0.3 + 0.1j)},
        np.concatenate([z.real, z.imag], axis=1),
    )  # fmt: skip
    J = random_networks.jacobian(network)[:, 0]
    np.testing.assert_allclose(np.abs(J @ J.T), np.abs((z @ z.conj().T).real), atol=1e-12)
