"""The table of methods."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stepwise import laws, losses
from stepwise.losses import isotropy
from stepwise.methods import plateaus, theory
from stepwise.methods.row import Method, Objective, Schedule, Start


def _collapsed_nt_xent(n: int, d: int) -> float:
    """Return 2 ln(2n − 1), the NT-Xent loss of embeddings that are all the same."""
    return 2 * math.log(2 * n - 1)


def _collapsed_lejepa(n: int, d: int) -> float:
    """Return 0.4020 · 0.02 · n, the LeJEPA loss of embeddings that are all 0."""
    return 0.02 * n * float(isotropy.WEIGHTS @ (1 - isotropy.GAUSSIAN) ** 2)


DEFAULT = "barlow_twins_unnormalised"
"""The name of the default method, the form of Barlow Twins that the theory solves."""

LINEAR_PREDICTOR: Mapping[str, Any] = MappingProxyType(
    {
        "loss": "law",
        "center": True,
        "predictor": (),
        "predictor_start": theory.PREDICTOR,
    }
)
"""Settings of a small start with a predictor, of which there is a law."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        row.name: row
        for row in (
            Method(
                name="barlow_twins_unnormalised",
                title="Barlow Twins, theory's form",
                paper="Simon et al., On the Stepwise Nature of SSL, ICML 2023 (arXiv 2303.15438)",
                objective=Objective(losses.barlow_twins_unnormalised),
                collapse=lambda n, d: float(d),
                levels=plateaus.whitening,
                law=laws.DEFAULT,
                recipe="barlow_twins",
                start=Start(scale=1e-3),
                schedules={
                    "small": Schedule(lr=0.004, steps=2200),
                    "small, tiny": Schedule(lr=0.02, steps=300),
                },
                in_paper=True,
                colour="#0072B2",
                marker="o",
            ),
            Method(
                name="barlow_twins",
                title="Barlow Twins",
                paper="Zbontar et al., Barlow Twins, ICML 2021 (arXiv 2103.03230)",
                objective=Objective(losses.barlow_twins),
                collapse=lambda n, d: float(d),
                law=laws.BarlowTwinsNormalised,
                recipe="barlow_twins",
                # The official loss ignores the scale of embeddings, so a growing head slows its own
                # learning. A larger rate makes the first modes larger, but the later ones no
                # sooner. The official off-diagonal weight, 0.0051, is for thousands of dimensions:
                # the fewer there are, the less it pushes a new mode out of the learned ones.
                schedules={
                    "standard": Schedule(
                        lr=0.2, steps=2000, warmup=100, loss_options={"off_diagonal": 0.02}
                    ),
                    "standard, tiny": Schedule(lr=0.02, steps=300),
                },
                in_paper=True,
                colour="#0072B2",
                marker="o",
            ),
            Method(
                name="simclr",
                title="SimCLR",
                paper="Chen et al., SimCLR, ICML 2020 (arXiv 2002.05709)",
                objective=Objective(losses.simclr),
                collapse=_collapsed_nt_xent,
                levels=plateaus.averaged,
                law=theory.simclr,
                recipe="simclr",
                # The loss ignores the scale of embeddings, so they start near one vector, the
                # offset. If its norm is 1, small differences suffice: the head learns alone and the
                # backbone hardly changes. Eigenvalues grow at 8γ/(temperature · offset²).
                start=Start(scale=1e-3, offset=theory.OFFSET),
                schedules={
                    "small": Schedule(lr=0.0036, steps=2500),
                    "small, tiny": Schedule(lr=0.018, steps=300),
                    # the temperature of the authors' experiments on CIFAR-10; at that of ImageNet,
                    # 0.1, the modes overlap
                    "standard": Schedule(lr=0.02, steps=1000, warmup=100, temperature=0.5),
                    "standard, tiny": Schedule(lr=0.018, steps=300),
                },
                in_paper=True,
                colour="#D55E00",
                marker="s",
            ),
            Method(
                name="vicreg",
                title="VICReg",
                paper="Bardes et al., VICReg, ICLR 2022 (arXiv 2105.04906)",
                objective=Objective(losses.vicreg),
                collapse=lambda n, d: 24.75,
                law=theory.vicreg,
                recipe="vicreg",
                # Modes leave zero at rate 5000σ/d while the standard deviation is below 0.01, and
                # grow more slowly afterwards. The warm-up is long for this reason.
                start=Start(scale=1e-4),
                schedules={
                    "small": Schedule(lr=0.05, steps=3000, warmup=1000, cosine=True),
                    "small, tiny": Schedule(lr=0.01, steps=500, warmup=100, cosine=True),
                    "standard": Schedule(lr=0.05, steps=3000, warmup=1000, cosine=True),
                    "standard, tiny": Schedule(lr=0.01, steps=500, warmup=100, cosine=True),
                },
                in_paper=True,
                colour="#009E73",
                marker="D",
            ),
            Method(
                name="spectral_contrastive",
                title="spectral contrastive",
                paper="HaoChen et al., Spectral Contrastive Loss, NeurIPS 2021 (arXiv 2106.04156)",
                objective=Objective(losses.spectral_contrastive),
                collapse=lambda n, d: -1.0,
                levels=plateaus.factorisation,
                law=theory.spectral_contrastive,
                law_loss=theory.unclipped_spectral_contrastive,
                recipe="spectral",
                small={"loss": "law", "center": True},
                schedules={
                    "small": Schedule(lr=0.05, steps=1500),
                    "small, tiny": Schedule(lr=0.1, steps=400),
                },
                colour="#CC79A7",
                marker="^",
            ),
            Method(
                name="byol",
                title="BYOL",
                paper="Grill et al., BYOL, NeurIPS 2020 (arXiv 2006.07733)",
                objective=Objective(losses.byol, predictor=True, decay=theory.DECAY),
                collapse=lambda n, d: 0.0,
                collapse_is_least=True,
                law=theory.byol,
                law_loss=theory.unnormalised_byol,
                law_of_run=theory.byol_of_run,
                recipe="byol",
                # The normalised loss conserves the norms of all weights and has no plateau.
                # The published target takes 250 steps to follow, and a small start many times that
                # to grow.
                small={**LINEAR_PREDICTOR, "decay": 0.9},
                schedules={
                    "small": Schedule(lr=0.004, steps=1500),
                    "small, tiny": Schedule(lr=0.01, steps=600),
                },
                colour="#E69F00",
                marker="v",
            ),
            Method(
                name="simsiam",
                title="SimSiam",
                paper="Chen and He, SimSiam, CVPR 2021 (arXiv 2011.10566)",
                objective=Objective(losses.simsiam, predictor=True),
                collapse=lambda n, d: -1.0,
                collapse_is_least=True,
                law=theory.simsiam,
                law_loss=theory.unnormalised_simsiam,
                law_of_run=theory.simsiam_of_run,
                recipe="simsiam",
                small=LINEAR_PREDICTOR,
                schedules={
                    "small": Schedule(lr=0.01, steps=1500),
                    "small, tiny": Schedule(lr=0.03, steps=600),
                },
                colour="#56B4E9",
                marker="P",
            ),
            Method(
                name="dino",
                title="DINO",
                paper="Caron et al., DINO, ICCV 2021 (arXiv 2104.14294)",
                # The embedding itself is the vector of logits. With a plain head, K is its width;
                # the authors' head is `models.PrototypeHead`, and the recipe "dino_multicrop" has
                # their local crops.
                objective=Objective(
                    losses.dino_with_running_center, decay=theory.DECAY, state=losses.dino_center
                ),
                collapse=lambda n, d: math.log(d),
                levels=plateaus.assignments,
                collapse_norm=0.0,
                law=theory.dino,
                law_of_run=theory.dino_of_run,
                recipe="dino",
                # The teacher follows faster than the published one, as BYOL's target does.
                small={"center": True, "decay": 0.9},
                schedules={
                    "small": Schedule(lr=0.02, steps=1500),
                    "small, tiny": Schedule(lr=0.03, steps=400),
                },
                colour="#332288",
                marker="X",
            ),
            # Not called "clip", because CLIP has two towers: here both are the same encoder, and
            # both inputs are views of one image.
            Method(
                name="clip_one_tower",
                title="CLIP, one tower",
                paper="Radford et al., CLIP, ICML 2021 (arXiv 2103.00020)",
                objective=Objective(
                    losses.clip_with_learned_scale,
                    parameters=losses.clip_scale,
                    project=losses.clip_limit,
                ),
                collapse=lambda n, d: math.log(n),
                law=theory.clip_one_tower,
                law_loss=theory.unnormalised_clip,
                recipe="clip",
                small={"loss": "law"},
                schedules={
                    "small": Schedule(lr=0.0001, steps=1500),
                    "small, tiny": Schedule(lr=0.0003, steps=400),
                },
                colour="#000000",
                marker="*",
            ),
            Method(
                name="lejepa",
                title="LeJEPA",
                paper="Balestriero and LeCun, LeJEPA, 2025 (arXiv 2511.08544)",
                objective=Objective(losses.lejepa_with_drawn_slices, state=losses.lejepa_step),
                collapse=_collapsed_lejepa,
                collapse_norm=0.0,
                law=theory.lejepa,
                law_loss=theory.isotropic_lejepa,
                law_of_run=theory.lejepa_of_run,
                schedules={
                    "small": Schedule(lr=0.0025, steps=1500),
                    "small, tiny": Schedule(lr=0.005, steps=600),
                },
                recipe="simclr",  # the authors also solarize, with probability 0.2
                colour="#DDCC77",
                marker="h",
            ),
            Method(
                name="isoloss",
                title="IsoLoss",
                paper="Halvagal et al., IsoLoss, NeurIPS 2023 (arXiv 2212.04858)",
                # The Euclidean form without a target network. The law is exact for the predictor
                # of the batch's own moment.
                objective=Objective(
                    losses.isoloss_with_running_moment, state=losses.isoloss_moment
                ),
                collapse=lambda n, d: 0.0,
                collapse_is_least=True,
                law=laws.IsoLoss,
                law_loss=losses.isoloss,
                recipe="byol",
                small={"center": True},
                schedules={
                    "small": Schedule(lr=0.002, steps=1500),
                    "small, tiny": Schedule(lr=0.005, steps=400),
                },
                colour="#661100",
                marker="<",
            ),
        )
    }
)
"""All methods, by name."""
