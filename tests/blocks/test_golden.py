"""Every block equals its original: stored runs of the published implementations, replayed forward and backward.

`pytest tests/test_golden.py --golden=DIR` replays every .safetensors file below DIR; the default is tests/golden/.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaln_lab import conditioning, dit, norms, residual
from adaln_lab.blocks import flux, golden, hdm, pixart, sd3
from adaln_lab.norms import modulate
from adaln_lab.residual import gated

HERE = Path(__file__).parents[1] / "golden"


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


def shift_and_scale_exchanged(patch):
    """The first two vectors change places, whatever they are."""
    cut = norms.split_vectors
    patch.setattr(norms, "split_vectors", lambda flat, n, order: cut(flat, n, (order[1], order[0], *order[2:])))
    patch.setattr(pixart, "split_vectors", norms.split_vectors)
    patch.setattr(hdm, "split_vectors", norms.split_vectors)


def tanh_dropped(patch):
    patch.setitem(residual.GATES, "tanh", residual.GATES["identity"])


def one_plus_dropped(patch):
    patch.setitem(residual.GATES, "one_plus", residual.GATES["identity"])


def eps_ten_times(patch):
    plain = norms.layer_norm
    for module in (conditioning, dit, sd3, flux, pixart):
        patch.setattr(module, "layer_norm", lambda x: plain(x, 1e-5))

    def forward(self, x):
        return torch.nn.functional.rms_norm(x, self.normalized_shape, self.weight, 10 * self.eps)

    patch.setattr(torch.nn.RMSNorm, "forward", forward)


def layer_norm_for_rms(patch):
    def forward(self, x):
        return torch.nn.functional.layer_norm(x, self.normalized_shape, self.weight, None, self.eps)

    patch.setattr(torch.nn.RMSNorm, "forward", forward)


def rebinding_removed(patch):
    """HDM as everybody else: the skip carries x. Only the block's own step is replaced."""

    def forward(self, x, c, ctx=None, shared=None, pos=None, ctx_pos=None):
        attn, cross, mlp = self.modulation(c) if shared is None else shared
        x = gated(x, self.attn(modulate(self.norm_attn(x), attn), pos), attn.gate, "one_plus")
        if self.cross is not None:
            h = modulate(self.norm_cross(x), cross)
            x = gated(x, self.cross(h, ctx, pos, ctx_pos), cross.gate, "one_plus")
        return gated(x, self.mlp(modulate(self.norm_mlp(x), mlp)), mlp.gate, "one_plus")

    patch.setattr(hdm.Block, "forward", forward)


def silu_dropped(patch):
    patch.setattr(norms.F, "silu", lambda x: x)


BROKEN = {  # a mistake -> the stored runs that must notice it
    shift_and_scale_exchanged: "dit_block pixart_block sd3_joint flux_single qwenimage_block lumina2_block hdm_block",
    tanh_dropped: "lumina2_block zimage_block",
    one_plus_dropped: "hdm_block hdm_shared_stack hdm_full",
    eps_ten_times: "dit_block pixart_block sd3_joint sd3_joint_qkrms flux_double flux_single qwenimage_block "
    "lumina2_block zimage_block hdm_block",
    layer_norm_for_rms: "flux_double qwenimage_block lumina2_block zimage_block hdm_block sd3_joint_qkrms",
    rebinding_removed: "hdm_block hdm_block_xattn hdm_shared_stack hdm_full",
    silu_dropped: "dit_block sd3_joint flux_single lumina2_block pixart_stack",
}
CASES = [(mistake, name) for mistake, names in BROKEN.items() for name in names.split()]


@pytest.mark.parametrize(("mistake", "name"), CASES, ids=lambda p: getattr(p, "__name__", p))
def test_a_broken_block_does_not_replay(monkeypatch, mistake, name):
    stored = golden.read(HERE / f"{name}.safetensors")
    assert golden.agrees(stored)
    mistake(monkeypatch)
    assert not golden.agrees(stored)
