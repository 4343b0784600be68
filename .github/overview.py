"""Draw the README's picture, overview.png beside this file: train the digits model once and show what it did.

python .github/overview.py        (about 15 s on two CPU cores)
"""

from pathlib import Path

import torch

from adaln_lab.data import datasets
from adaln_lab.display import plots
from adaln_lab.samplers import sample
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, train

run, data, film = Run.new(*recipe("digits")), datasets.load("digits"), {}
moments = (1, 25, 50, 100, run.config.steps)
for step in train(run, data):
    if step.number in moments:
        film[f"step {step.number}"] = sample(run.ema, torch.arange(10), seed=7)

fig, (left, right) = plots.new_figure(9, 3.0, columns=2, width_ratios=[1, 1.5])
readings = [step for step in run.history if step.gates is not None]
plots.plot_gates([step.number for step in readings], torch.stack([step.gates for step in readings]), left)
left.set_title("Gates start at zero and open ...")
plots.plot_film(film, right)
right.set_title("... while digits appear out of noise")
fig.savefig(Path(__file__).with_name("overview.png"), dpi=120)
