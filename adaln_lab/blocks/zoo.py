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

ZOO: dict[str, Spec] = {
    "dit": dit.SPEC,
    "pixart": pixart.SPEC,
    "sd3": sd3.SPEC,
    "flux": flux.SPEC,
    "qwenimage": qwenimage.SPEC,
    "lumina2": lumina2.SPEC,
    "zimage": zimage.SPEC,
    "hdm": hdm.SPEC,
    "flux2": flux2.SPEC,
    "ernie": ernie.SPEC,
    "qwenimage21": qwenimage21.SPEC,
    "krea2": krea2.SPEC,
    "minimax_h3": minimax_h3.SPEC,
    "flux3": flux3.SPEC,
    "ideogram4": ideogram4.SPEC,
    "sd15": sd15.SPEC,
}
