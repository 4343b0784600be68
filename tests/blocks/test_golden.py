"""Every block equals its original: stored runs of the published implementations, replayed forward and backward.

`pytest tests/blocks/test_golden.py --golden=DIR` replays every .safetensors file below DIR instead.
"""

from pathlib import Path

import pytest
import torch
from replicas import BUILDERS, GOLDEN, stored_path, stored_run
from safetensors import safe_open
from safetensors.torch import save_file

from adaln_lab import conditioning, dit, norms
from adaln_lab.blocks import flux, golden, hdm, pixart, sd3
from adaln_lab.norms import gated, modulate


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test item a file; a folder without any is one item that fails."""
    if "path" in metafunc.fixturenames:
        given = metafunc.config.getoption("--golden")
        folders = [given] if given else GOLDEN
        files = [path for folder in folders for path in sorted(folder.rglob("*.safetensors")) or [folder]]
        metafunc.parametrize("path", files, ids=lambda path: path.name)


def test_the_block_replays_the_original(path: Path):
    """Outputs, input gradients, the norm of every weight's gradient, modulation: float64, atol 1e-10, rtol 1e-9."""
    stored = golden.read(path)
    for group in ("weights", "inputs", "cotangents", "outputs_exact", "grads_exact", "weight_grad_l2"):
        assert stored.tensors[group], f"{group} is empty, so there is nothing to compare"
    for name, (ours, theirs) in golden.replay(stored, golden.build(stored, BUILDERS)).items():
        torch.testing.assert_close(ours, theirs, **golden.TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_every_replica_has_a_stored_run_and_each_run_is_stored_once():
    files = [path for folder in GOLDEN for path in folder.glob("*.safetensors")]
    assert len({path.name for path in files}) == len(files) == 24
    classes = [golden.read(path).meta["upstream_class"] for path in files]
    assert all(any(of.startswith(name) for of in classes) for name in BUILDERS)


def changed(tmp_path: Path, change) -> golden.Stored:
    """Z-Image's stored run with its tensors or metadata changed, read from a file."""
    with safe_open(stored_path("zimage_block"), "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118
    change(tensors, meta)
    save_file(tensors, tmp_path / "changed.safetensors", meta)
    return golden.read(tmp_path / "changed.safetensors")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, m: m.update(upstream_class="SomeBlock"), ValueError, "no block for class 'SomeBlock'; known: DiT"),
        (lambda t, m: m.update(config="{}"), KeyError, "'dim'"),
        (lambda t, m: m.pop("config"), KeyError, "'config'"),
        (lambda t, m: t.pop("weights.ffn_norm1.weight"), ValueError, "'ffn_norm1.weight' is missing"),
        (lambda t, m: t.update({"weights.more": torch.ones(1)}), ValueError, "no layer for 'more'"),
        (lambda t, m: t.update({"notes.x": torch.ones(1)}), KeyError, "'notes'"),
        (lambda t, m: t.update({"inputs.z": torch.ones(1)}), TypeError, "'z'"),
        (lambda t, m: t.pop("inputs.x"), TypeError, "'x'"),
        (lambda t, m: t.update({"outputs_exact.z": torch.ones(1)}), KeyError, "'z'"),
        (lambda t, m: t.update({"weights.ffn_norm1.weight": torch.ones(3)}), ValueError, r"must be \(16,\)"),
    ],
)
def test_a_file_at_fault_is_refused_and_its_key_named(tmp_path, change, error, message):
    """Strict: a number that is missing, or that nothing compares, must not pass as equal."""
    with pytest.raises(error, match=message):
        golden.replay(changed(tmp_path, change))


@pytest.mark.parametrize(
    ("key", "by"),
    [("outputs_exact.x", 1e-8), ("modulation.block", 1e-8), ("weights.ffn_norm1.weight", 1e-6), ("inputs.x", 0)],
)
def test_one_changed_number_is_noticed(tmp_path, key, by):
    """The replay can fail: a stored output, a modulation vector or a weight that moves is enough."""

    def change(tensors, meta):
        tensors[key].view(-1)[3] += by

    assert golden.agrees(changed(tmp_path, change)) == (by == 0)


def shift_and_scale_exchanged(patch):
    """The first two vectors change places, whatever they are."""
    cut = norms.split_vectors
    patch.setattr(norms, "split_vectors", lambda flat, n, order: cut(flat, n, (order[1], order[0], *order[2:])))
    patch.setattr(pixart, "split_vectors", norms.split_vectors)
    patch.setattr(hdm, "split_vectors", norms.split_vectors)


def tanh_dropped(patch):
    patch.setitem(norms.GATES, "tanh", norms.GATES["identity"])


def one_plus_dropped(patch):
    patch.setitem(norms.GATES, "one_plus", norms.GATES["identity"])


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
    """HDM with the usual residual: x itself is carried on, not its norm."""

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


BROKEN = {  # a mistake -> stored runs that it must not replay
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
    stored = stored_run(name)
    replica = golden.build(stored, BUILDERS)
    mistake(monkeypatch)
    assert not golden.agrees(stored, replica)
