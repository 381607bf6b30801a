"""The symbols of the theory, their names in the code, their shapes, and where they are defined.

"Source" is Simon et al., *On the Stepwise Nature of Self-Supervised Learning*, ICML 2023
(arXiv 2303.15438).

=========  ======================  ===========  ====================================================
symbol     name in the code        shape        meaning
=========  ======================  ===========  ====================================================
n          ``n_pairs``             scalar       positive pairs (x_i, x'_i)
m          (input size)            scalar       dimension of one flattened view
d          ``d``                   scalar       dimension of the embedding
r          ``gamma.size``          scalar       modes that are kept: the data's rank, or fewer
X, X'      ``x``, ``x2``           [n, m]       the two views, row i of both is one pair
Γ          (never whole if m>2n)   [m, m]       cross-view moment, (1/2n) Σ x x'ᵀ + x' xᵀ, eq. (3)
V, γ       ``basis``, ``gamma``    [m, r], [r]  Γ = V diag(γ) Vᵀ, γ descending, some negative
W          ``weights``             [d, m]       the linear model f(x) = W x
A          ``A``, ``A0``           [d, r]       mode coordinates A = W V, where the dynamics happen
φ(x)       ``features``            [2n, r]      mode coordinates of the views, f(x) = A φ(x)
C          (its spectrum)          [d, d]       A diag(γ) Aᵀ, cross-view moment of embeddings
λ_j        ``eigenvalues``         [T, d]       eigenvalues of C; γ_j s_j² for an aligned start
s_j        ``s0``                  [d]          singular values of A
τ_j        ``step_times``          [d]          when λ_j crosses 1/2
α          ``start_scale``         scalar       standard deviation of Gaussian W(0)'s entries
t          ``times``               [T]          learning rate × step
K          ``K``                   [2n, 2n]     kernel of the 2n views, X stacked on X'
=========  ======================  ===========  ====================================================

The loss is L = ‖C − I_d‖_F² (eq. 4) and the flow is dW/dt = −∇L = −4 (C − I) W Γ (eq. 5).
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array on a device or on the host: what every public function accepts."""

Numbers: TypeAlias = Any
"""Anything that NumPy reads as an array of real numbers; the door checks it
(`stepwise._check.real_array`).
"""

Real: TypeAlias = Any
"""One real number, of whatever type, traced or not."""

Whole: TypeAlias = int | np.integer
"""One whole number, of whatever type."""
