"""How one mode grows: closed forms, step times, fixed points and stability limits.

A law depends only on the modes of a problem and on the initial eigenvalues λ_j(0). The data enter
through their moments, and W(0) through λ_j(0). `Law` is the interface between laws and solvers.
Every `law=` argument accepts a function (problem, d) -> Law and defaults to `DEFAULT`.
"""

from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.barlow_twins_normalised import BarlowTwinsNormalised
from stepwise.laws.base import Law, LawOf, Modes, NotKnownError, cast
from stepwise.laws.byol import BYOL
from stepwise.laws.choice import DEFAULT, law_of
from stepwise.laws.clip import CLIP
from stepwise.laws.deep_linear import DeepLinear
from stepwise.laws.dino import DINO
from stepwise.laws.isoloss import IsoLoss
from stepwise.laws.lejepa import LeJEPA
from stepwise.laws.one_tower_clip import OneTowerCLIP
from stepwise.laws.quadratic_vicreg import QuadraticVICReg
from stepwise.laws.simclr import SimCLR
from stepwise.laws.spectral_contrastive import SpectralContrastive
from stepwise.laws.start import effective_start, expected_start
from stepwise.laws.supervised import Supervised
from stepwise.laws.vicreg import VICReg
from stepwise.laws.word2vec import Word2Vec

__all__ = [
    "BYOL",
    "CLIP",
    "DEFAULT",
    "DINO",
    "BarlowTwins",
    "BarlowTwinsNormalised",
    "DeepLinear",
    "IsoLoss",
    "Law",
    "LawOf",
    "LeJEPA",
    "Modes",
    "NotKnownError",
    "OneTowerCLIP",
    "QuadraticVICReg",
    "SimCLR",
    "SpectralContrastive",
    "Supervised",
    "VICReg",
    "Word2Vec",
    "cast",
    "effective_start",
    "expected_start",
    "law_of",
]
