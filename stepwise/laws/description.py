"""What a class of laws says about itself in words."""

from typing import ClassVar


class Description:
    """The class attributes that describe a law. `Law` derives from it.

    The page on laws in the documentation is generated from them. A law of your own need set none;
    set at least `domain` and `observable` if you share it.

    Attributes:
        domain: the models and starts for which the law is exact, in words.
        observable: the matrix whose eigenvalues the law describes: "C", "covariance",
            "covariance / T", "whitened cross product" or "W Wᵀ".
        formula: the loss, for axis labels.
        title: the plain name of the loss.
        call: the call of `stepwise.losses` of which it is the law, and under which conditions.
        mode: the law of one mode, in LaTeX.
        behaviour: what happens from a small start.
        prediction: what it predicts that other laws do not.
        curves: how `eigenvalues` computes curves.
        second_moment: which second moments Σ of single views it accepts.
    """

    domain: ClassVar[str] = "not said"
    observable: ClassVar[str] = "C"
    formula: ClassVar[str] = ""
    title: ClassVar[str] = ""
    call: ClassVar[str] = ""
    mode: ClassVar[str] = ""
    behaviour: ClassVar[str] = ""
    prediction: ClassVar[str] = ""
    curves: ClassVar[str] = "integrated"
    second_moment: ClassVar[str] = ""
