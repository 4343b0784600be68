"""Every block equals its original: stored runs of the published implementations, replayed forward and backward.

`pytest tests/test_golden.py --golden=DIR` replays every .safetensors file below DIR; the default is tests/golden/.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaln_lab.blocks import golden

HERE = Path(__file__).parent / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test item a file; a folder without any is one item that fails."""
    if "stored_run" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden")
        files = sorted(folder.rglob("*.safetensors")) or [folder]
        metafunc.parametrize("stored_run", files, ids=lambda path: path.relative_to(folder).as_posix())


def test_the_block_replays_the_original(stored_run: Path):
    """Outputs, input gradients, the norm of every weight's gradient, modulation: float64, atol 1e-10, rtol 1e-9."""
    stored = golden.read(stored_run)
    for name, (ours, theirs) in golden.replay(stored).items():
        torch.testing.assert_close(ours, theirs, **golden.TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def stored_with(folder: Path, tmp_path: Path, name: str, change) -> Path:
    """A copy of a stored run, its tensors and metadata changed."""
    with safe_open(folder / name, "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118
    change(tensors, meta)
    save_file(tensors, tmp_path / name, meta)
    return tmp_path / name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(upstream_class="SomeBlock"), "no block for class 'SomeBlock'; known: DiTBlock"),
        (lambda t, m: m.update(config="{}"), "neither config nor weights have 'dim'"),
        (lambda t, m: m.pop("config"), "its metadata lacks 'config'"),
        (lambda t, m: t.pop("weights.ffn_norm1.weight"), "'weights.ffn_norm1.weight' is missing"),
        (lambda t, m: t.update({"weights.more": torch.ones(1)}), "no layer for 'more'"),
        (lambda t, m: t.update({"notes.x": torch.ones(1)}), "no group for key 'notes.x'"),
        (lambda t, m: t.update({"inputs.z": torch.ones(1)}), "'inputs.z' has no place in this block; it takes x, c"),
        (lambda t, m: t.pop("inputs.x"), "'inputs.x' is missing"),
        (lambda t, m: t.update({"outputs_exact.z": torch.ones(1)}), "'outputs_exact.z' is stored, but"),
        (lambda t, m: t.update({"weights.ffn_norm1.weight": torch.ones(3)}), r"'ffn_norm1.weight' must be \(16,\)"),
    ],
)
def test_a_file_at_fault_is_refused_and_its_key_named(tmp_path, change, message):
    path = stored_with(HERE, tmp_path, "zimage_block.safetensors", change)
    with pytest.raises(ValueError, match=message):
        golden.replay(golden.read(path))


def test_a_truncated_file_is_refused(tmp_path):
    whole = (HERE / "zimage_block.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.safetensors is no whole safetensors file .* copy it again"):
        golden.read(tmp_path / "half.safetensors")


def test_one_changed_number_is_noticed(tmp_path):
    """The replay can fail: a stored output moved by 1e-8, a modulation vector, a weight, each is enough."""
    for key, by in (("outputs_exact.x", 1e-8), ("modulation.block", 1e-8), ("weights.ffn_norm1.weight", 1e-6)):

        def change(t, m, key=key, by=by):
            t[key].view(-1)[3] += by

        assert not golden.agrees(golden.read(stored_with(HERE, tmp_path, "zimage_block.safetensors", change)))
    assert golden.agrees(golden.read(HERE / "zimage_block.safetensors"))
