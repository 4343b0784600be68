"""Blocks of published models, numerically equal to the original implementations: ZOO["flux"].facts, .build(), ..."""

from adaln_lab.blocks import dit, flux, hdm, lumina2, pixart, qwenimage, sd3, sd15, zimage
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
    "sd15": sd15.SPEC,
}
