"""Where the course runs: the device, the folder, the installed packages."""

import pytest
import torch

from adaln_lab.utils import environment
from adaln_lab.utils.environment import home, pick_device, problems


def test_the_device_follows_the_environment_and_refuses_what_is_not_here(monkeypatch):
    monkeypatch.setenv("ADALN_LAB_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be one of cpu"):
        pick_device("tpu")


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    assert home() == tmp_path


def test_this_environment_has_no_problems_and_an_old_package_has_a_remedy(monkeypatch):
    assert problems() == []
    lines = ["numpy", "torch>=99.0", "no-such-package>=1.0", "another; extra == 'test'", "third; python_version < '3'"]
    monkeypatch.setattr(environment.metadata, "requires", lambda _: lines)
    old, missing = problems()
    assert "pip install -U 'torch>=99.0'" in old
    assert "pip install 'no-such-package>=1.0'" in missing


def test_without_a_home_folder_one_sentence_names_the_remedy(no_home):
    with pytest.raises(ValueError, match="set ADALN_LAB_HOME"):
        home()
