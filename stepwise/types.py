"""The symbols of the theory: their names in the code, their shapes and their meanings.

Equation numbers refer to the paper: Simon et al., *On the Stepwise Nature of Self-Supervised
Learning*, ICML 2023 (arXiv 2303.15438).

=========  ======================  ===========  ====================================================
symbol     name in the code        shape        meaning
=========  ======================  ===========  ====================================================
n          ``n_pairs``             scalar       positive pairs (x_i, x'_i)
m          (input size)            scalar       dimension of one flattened view
d          ``d``                   scalar       dimension of the embedding
r          ``gamma.size``          scalar       number of modes: the data's rank, or fewer
X, X'      ``x``, ``x2``           [n, m]       the two views; row i of both is one pair
Γ          (not formed if m>2n)    [m, m]       cross-view moment, (1/2n) Σ x x'ᵀ + x' xᵀ, eq. (3)
V, γ       ``basis``, ``gamma``    [m, r], [r]  Γ = V diag(γ) Vᵀ, γ descending, some negative
W          ``weights``             [d, m]       the linear model f(x) = W x
A          ``A``, ``A0``           [d, r]       mode coordinates A = W V, in which the dynamics run
φ(x)       ``features``            [2n, r]      mode coordinates of the views, f(x) = A φ(x)
C          (its spectrum)          [d, d]       A diag(γ) Aᵀ, cross-view moment of embeddings
λ_j        ``eigenvalues``         [T, d]       eigenvalues of C; γ_j s_j² for an aligned start
s_j        ``s0``                  [d]          singular values of A
τ_j        ``step_times``          [d]          time at which λ_j crosses 1/2
α          ``start_scale``         scalar       standard deviation of the Gaussian entries of W(0)
t          ``times``               [T]          learning rate × step
K          ``K``                   [2n, 2n]     kernel of the 2n views, X stacked above X'
=========  ======================  ===========  ====================================================

The loss is L = ‖C − I_d‖_F² (eq. 4) and the flow is dW/dt = −∇L = −4 (C − I) W Γ (eq. 5).
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array on a device or on the host; every public function accepts both."""

Numbers: TypeAlias = Any
"""Any array-like of real numbers, validated by `stepwise._check.real_array`."""

Real: TypeAlias = Any
"""One real number of any type, traced or not."""

Whole: TypeAlias = int | np.integer
"""One whole number, a Python or a NumPy integer."""
