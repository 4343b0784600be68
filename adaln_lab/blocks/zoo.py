"""Blocks of published models, numerically equal to the original implementations: ZOO["flux"].facts, .build(), ..."""

from adaln_lab.blocks import (
    dit,
    ernie,
    flux,
    flux2,
    flux3,
    hdm,
    ideogram4,
    krea2,
    lumina2,
    minimax_h3,
    pixart,
    qwenimage,
    qwenimage21,
    sd3,
    sd15,
    zimage,
)
from adaln_lab.blocks.spec import Spec

MODULES = (
    dit, pixart, sd3, flux, qwenimage, lumina2, zimage, hdm, flux2, ernie, qwenimage21, krea2, minimax_h3, flux3,
    ideogram4, sd15,
)  # fmt: skip
ZOO: dict[str, Spec] = {module.__name__.rpartition(".")[2]: module.SPEC for module in MODULES}
