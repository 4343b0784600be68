"""Make the classifiers in adaln_lab/assets, which measure samples (maintainers only).

python -m benchmarks.classifiers --data emoji --out FILE
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from adaln_lab.data import datasets, emoji
from adaln_lab.experiments import classifier, emoji_classifier
from adaln_lab.utils.files import check_writable, save_tensors, to_json


def fit_emoji(steps: int = 2500, batch: int = 128, seed: int = 0) -> emoji_classifier.EmojiClassifier:
    """Train on all nouns but each tenth: about five minutes on one core."""
    real = emoji.pictures(emoji_classifier.SIZE)
    n = real.shape[1]
    known = torch.ones(n, dtype=torch.bool)
    known[emoji_classifier.KEPT] = False
    shown = known.nonzero().flatten()
    category = torch.tensor([emoji_classifier.categories().index(noun.category) for noun in emoji.nouns()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, to_noun = emoji_classifier.EmojiClassifier(), nn.Linear(96, n)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([*model.parameters(), *to_noun.parameters()], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        which = shown[torch.randint(len(shown), (batch,), generator=generator)]
        style = torch.randint(2, (batch,), generator=generator)
        features = model(emoji_classifier.disturbed(real[style, which], generator))
        loss = F.cross_entropy(model.style(features), style) + F.cross_entropy(
            model.category(features), category[which]
        )
        loss = loss + 0.3 * F.cross_entropy(10 * to_noun(F.normalize(features)), which, label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.classifiers", description=__doc__)
    parser.add_argument("--data", choices=["digits", "emoji", *datasets.TORCHVISION], required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    o = parser.parse_args(arguments)
    check_writable(o.out)
    about = {"command": f"python -m benchmarks.classifiers --data {o.data}"}
    if o.data == "emoji":
        fitted = fit_emoji()
        about |= {name: round(share, 4) for name, share in emoji_classifier.worth(fitted).items()}
    else:
        data = datasets.load(o.data)
        fitted = classifier.fit_classifier(data)
        about["held_out_accuracy"] = round(classifier.accuracy(fitted, data.held_images, data.held_labels), 4)
    save_tensors(fitted.state_dict(), o.out, about)
    print(to_json(about))


if __name__ == "__main__":
    main()
