"""Draw the README's first picture, prompts.png beside this file: what the shipped model makes of twelve prompts.

python .github/prompts.py        (about 10 s on two CPU cores)
"""

from pathlib import Path

import torch

from adaln_lab.data import emoji
from adaln_lab.display import plots
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import shipped_model

SEEN = ["rocket", "cat face", "pizza", "maple leaf", "person surfing", "crab"]
NEW = ["green heart", "orange heart", "blue book", "brown circle", "dark waving hand", "medium thumbs up"]  # as pairs
model = shipped_model("emoji")
fig, axes = plots.new_figure(9, 2.3, columns=12, rows=2, wspace=0.1, hspace=0.05)
rows = torch.cat([emoji.parse(SEEN + NEW, style) for style in emoji.STYLES])
for i, (ax, picture) in enumerate(zip(axes, sample(model, rows, 20, guidance=2.0, seed=0), strict=True)):
    ax.imshow(plots.picture_grid(picture[None], 1, gap=0))
    ax.set(xticks=[], yticks=[], frame_on=False)
    if i < 12:
        ax.set_title((SEEN + NEW)[i].replace(" ", "\n", 1), fontsize=8)
    if i % 12 == 0:
        ax.set_ylabel(emoji.STYLES[i // 12], fontsize=9)
fig.savefig(Path(__file__).with_name("prompts.png"), dpi=130)
