"""The shipped model of emoji draws what it is asked for: far above chance, in the style that is asked for."""

import pytest
import torch

from adaln_lab.__main__ import main
from adaln_lab.data import emoji
from adaln_lab.dit import TinyDiT
from adaln_lab.exercises import part11
from adaln_lab.experiments import emoji_classifier
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import shipped_model


@pytest.fixture(scope="module")
def model() -> TinyDiT:
    return shipped_model("emoji")


def test_it_knows_the_vocabulary_and_takes_the_style_by_the_vector(model):
    k = model.config
    assert (k.n_classes, k.context_length, k.style_tokens) == (len(emoji.vocabulary()), 1 + emoji.WORDS, 1)
    assert k.variant == "both" and k.size in emoji.SIZES


def test_it_draws_what_training_showed_in_the_style_that_is_asked_for(model):
    """By chance, half of the styles and one noun in 1,410 would be right."""
    shown = [noun.words for noun in emoji.nouns() if noun.split == "both"][::40]
    for style in emoji.STYLES:
        rows = torch.tensor([emoji.tokens(words, style) for words in shown])
        found = emoji_classifier.quality(sample(model, rows, 12, guidance=2.0), rows)
        assert found["style"] >= 0.6 and found["noun_in_5"] >= 0.1


def test_which_prompts_give_the_same_drawing():
    assert [row[0] for row in part11.same_drawing().values()] == ["yes", "no", "yes", "no", "no"]


def test_it_is_found_by_its_name(tmp_path):
    command = ["sample", "--run", "emoji", "--prompt", "red book", "--style", "noto", "--n", "1", "--steps", "2"]
    assert main([*command, "--device", "cpu", "--out", str(tmp_path / "a.png")]) == 0
