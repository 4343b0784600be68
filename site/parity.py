"""The model in the page against torch: the same float16 weights, the same questions, answers side by side.

    python site/parity.py       asks Node and prints the largest differences

torch computes in float64, as JavaScript does, so that a difference is a mistake and not a rounding.
"""

import json
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor
from weights import packed

from adaln_lab.analysis import interventions
from adaln_lab.dit import TinyDiT
from adaln_lab.samplers import sample, time_grid
from adaln_lab.training.checkpoint import shipped_model

PLAYGROUND = Path(__file__).parent / "playground"
TOLERANCE = 1e-5
NODE = 18  # the oldest that is known to run these modules


def node() -> str | None:
    """The path of a Node that is new enough."""
    path = shutil.which("node")
    version = path and subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return path if version and int(version[1:].split(".")[0]) >= NODE else None


def rounded(model: TinyDiT) -> TinyDiT:
    """The model with the weights that the page has, in float64."""
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return model.double()


def differences(model: TinyDiT, forwards: int = 110, pictures: int = 40) -> dict[str, float]:
    """The largest difference for each kind of answer; `model` is in float32."""
    weights = packed(model)
    model = rounded(model)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(forwards, 1, 8, 8, generator=generator, dtype=torch.float64)
    t = torch.rand(forwards, generator=generator, dtype=torch.float64)
    y = torch.arange(forwards) % 11  # every digit, and no digit
    kinds = ({}, {"factor": 0.5, "block": 2}, {"donor": 8, "block": 1}, {"time": 0.75})
    asked = [
        {"y": n % 10, "seed": n, "steps": 1 + n % 9, "guidance": (0, 1, 2, 3.5)[n // 4 % 4], **kinds[n % 4]}
        for n in range(pictures)
    ]
    questions = {
        "weights": weights,
        "forwards": [
            {"x": a.flatten().tolist(), "t": b.item(), "y": c.item()} for a, b, c in zip(x, t, y, strict=True)
        ],
        "pictures": asked,
        "noises": list(range(50)),
    }
    command = [node() or "node", str(PLAYGROUND / "parity.mjs")]
    ran = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, check=True)
    got = json.loads(ran.stdout)

    with torch.inference_mode():
        pre = model.precompute(t, y)
        velocity = model.forward_with(x, pre).flatten(1)
    order = [m for block in pre.blocks for m in block.modulations]
    flat = torch.cat([v for m in (*order, pre.final) for v in m if v is not None], dim=-1).flatten(1)
    names = [n for m in (*order, pre.final) for n, v in m._asdict().items() if v is not None for _ in range(64)]
    is_gate = torch.tensor([name == "gate" for name in names])
    modulation = torch.tensor([answer["modulation"] for answer in got["forwards"]], dtype=torch.float64)
    return {
        "velocity": _apart([answer["v"] for answer in got["forwards"]], velocity),
        "modulation": _apart(modulation[:, ~is_gate], flat[:, ~is_gate]),
        "gates": _apart(modulation[:, is_gate], flat[:, is_gate]),
        "samples": _apart(got["pictures"], torch.stack([_picture(model, **question) for question in asked])),
        "noise": _apart(got["noises"], torch.stack([_noise(seed) for seed in range(50)])),
        "times": max(_apart(grid, time_grid(n + 1)) for n, grid in enumerate(got["grids"])),
    }


def _picture(
    model: TinyDiT,
    y: int,
    seed: int,
    steps: int,
    guidance: float,
    factor: float | None = None,
    block: int = 0,
    donor: int | None = None,
    time: float | None = None,
) -> Tensor:
    precompute = model.precompute
    if donor is not None:
        precompute = interventions.patched(precompute, interventions.for_label(precompute, y, donor), [block])
    if time is not None:
        precompute = interventions.at_time(precompute, time)
    if factor is not None:
        precompute = interventions.scaled(precompute, "gate", factor, block, "MLP")
        precompute = interventions.scaled(precompute, "shift", factor, 0, "attention")
    return sample(model, torch.tensor([y]), steps, guidance, seed=seed, precompute=precompute).flatten()


def _noise(seed: int) -> Tensor:
    return torch.randn(64, generator=torch.Generator().manual_seed(seed))


def _apart(got: list | Tensor, want: Tensor) -> float:
    return (torch.as_tensor(got, dtype=torch.float64) - want.double()).abs().max().item()


if __name__ == "__main__":
    for name, difference in differences(shipped_model()).items():
        print(f"{name:12} {difference:.1e}")
