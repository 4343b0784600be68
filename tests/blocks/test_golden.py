"""Every block equals its original: stored runs of the published implementations, replayed forward and backward.

`pytest tests/blocks/test_golden.py --golden=DIR` replays every .safetensors file below DIR instead.
"""

from pathlib import Path

import pytest
import torch
from replicas import BUILDERS, GOLDEN, stored_path, stored_run
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from adaln_lab import norms
from adaln_lab.blocks import (
    ernie,
    flux,
    flux2,
    flux3,
    golden,
    hdm,
    krea2,
    minimax_h3,
    parts,
    pixart,
    qwenimage21,
    sd3,
)
from adaln_lab.norms import gated, modulate

TOLERANCE = {"atol": 1e-10, "rtol": 1e-9}


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
        torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_every_replica_has_a_stored_run_and_each_run_is_stored_once():
    files = [path for folder in GOLDEN for path in folder.glob("*.safetensors")]
    assert len({path.name for path in files}) == len(files) == 48
    classes = [golden.read(path).meta["upstream_class"] for path in files]
    assert all(any(of.startswith(name) for of in classes) for name in BUILDERS)


def agrees(stored: golden.Stored, replica: golden.Replica | None = None) -> bool:
    return all(torch.allclose(a, b, **TOLERANCE) for a, b in golden.replay(stored, replica).values())


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

    assert agrees(changed(tmp_path, change)) == (by == 0)


def shift_and_scale_exchanged(patch):
    """The first two vectors change places, whatever they are."""
    cut = norms.split_vectors
    for module in (norms, pixart, hdm, flux2, ernie, qwenimage21, minimax_h3, flux3):
        patch.setattr(module, "split_vectors", lambda flat, n, order: cut(flat, n, (order[1], order[0], *order[2:])))


def tanh_dropped(patch):
    patch.setitem(norms.GATES, "tanh", norms.GATES["identity"])


def one_plus_dropped(patch):
    patch.setitem(norms.GATES, "one_plus", norms.GATES["identity"])


def eps_ten_times(patch):
    layer_norm, rms_norm = F.layer_norm, F.rms_norm
    patch.setattr(F, "layer_norm", lambda x, shape, eps: layer_norm(x, shape, eps=10 * eps))
    patch.setattr(F, "rms_norm", lambda x, shape, weight, eps: rms_norm(x, shape, weight, 10 * eps))


def layer_norm_for_rms(patch):
    patch.setattr(F, "rms_norm", lambda x, shape, weight, eps: F.layer_norm(x, shape, weight, None, eps))


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
    patch.setattr(F, "silu", lambda x, **_: x)


def silu_added(patch):
    """Before the Linear of an output layer that takes c as it is."""
    plain = ernie.Output.forward
    patch.setattr(ernie.Output, "forward", lambda self, x, c: plain(self, x, F.silu(c)))


def silu_for_gelu(patch):
    patch.setattr(torch.nn.GELU, "forward", lambda self, x: F.silu(x))


def gelu_in_tanh_form(patch):
    exact = F.gelu
    patch.setattr(F, "gelu", lambda x: exact(x, approximate="tanh"))


def gate_and_value_exchanged(patch):
    def forward(self, h):
        value, gate = self.up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)

    patch.setattr(parts.SwiGLU, "forward", forward)


def weight_without_one_plus(patch):
    patch.setattr(krea2.RMSNorm, "forward", lambda self, x: F.rms_norm(x, x.shape[-1:], self.weight, self.eps))


def gate_of_attention_dropped(patch):
    patch.setattr(torch.Tensor, "sigmoid", lambda x: torch.ones_like(x))


def full_attention(patch):
    patch.setattr(qwenimage21, "block_causal", lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool))


def causal_inside_images(patch):
    patch.setattr(qwenimage21, "block_causal", lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool).tril())


def one_row_for_all_tokens(patch):
    patch.setattr(qwenimage21, "read_rows", lambda vectors, ids, batch: vectors[:batch, None])
    patch.setattr(minimax_h3, "rows", lambda t_index, tag: 0 * tag)


def rows_by_modality_first(patch):
    patch.setattr(minimax_h3, "rows", lambda t_index, tag: (t_index.max() + 1) * tag + t_index)


def modes_exchanged(patch):
    plain = flux3.per_token
    patch.setattr(flux3, "per_token", lambda vectors, streams: plain(vectors[::-1], streams))


def other_rotary_pairs(patch):
    """(k, k + r) for (2k, 2k + 1), and the other way round."""
    plain = parts.apply_rope

    def neighbours(x, cos, sin):
        turned, rest = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
        return torch.cat([parts.rotate(turned, cos, sin), rest], dim=-1)

    def other(q, k, rope, rotate=parts.rotate):
        return plain(q, k, rope, neighbours if rotate is parts.rotate_halves else parts.rotate_halves)

    for module in (parts, sd3, flux, flux2, krea2):
        patch.setattr(module, "apply_rope", other)


def a_true_rotation(patch):
    """ERNIE's partners turn by one angle, that of the first."""

    def turn(x, cos, sin):
        half = x.shape[-1] // 2
        return parts.rotate_halves(x, cos[..., :half], sin[..., :half])

    patch.setattr(ernie, "turn", turn)


BROKEN = {  # a mistake -> stored runs that it must not replay
    shift_and_scale_exchanged: "dit_block pixart_block sd3_joint flux_single qwenimage_block lumina2_block hdm_block "
    "flux2_double flux2_single ernie_block qwenimage21_block krea2_block minimax_h3_block flux3_mode ideogram4_block "
    "flux2_final ernie_final krea2_final minimax_h3_final",
    tanh_dropped: "lumina2_block zimage_block qwenimage21_block ideogram4_block",
    one_plus_dropped: "hdm_block hdm_shared_stack hdm_full",
    eps_ten_times: "dit_block pixart_block sd3_joint sd3_joint_qkrms flux_double flux_single qwenimage_block "
    "lumina2_block zimage_block hdm_block flux2_double flux2_single ernie_block qwenimage21_block krea2_block "
    "minimax_h3_block flux3_mode ideogram4_block flux2_final ernie_final krea2_final minimax_h3_final "
    "qwenimage21_final ideogram4_final krea2_text_block minimax_h3_refiner",
    layer_norm_for_rms: "flux_double qwenimage_block lumina2_block zimage_block hdm_block sd3_joint_qkrms "
    "flux2_single ernie_block qwenimage21_block krea2_block minimax_h3_block flux3_single ideogram4_block "
    "krea2_final minimax_h3_final",
    rebinding_removed: "hdm_block hdm_block_xattn hdm_shared_stack hdm_full",
    silu_dropped: "dit_block sd3_joint flux_single lumina2_block pixart_stack flux2_final flux3_final ideogram4_final "
    "qwenimage21_final minimax_h3_final flux2_stack ernie_block",
    silu_added: "ernie_final ernie_stack",
    silu_for_gelu: "krea2_block krea2_stack",
    gelu_in_tanh_form: "ernie_block ernie_stack",
    gate_and_value_exchanged: "zimage_block flux2_double qwenimage21_block krea2_text_block minimax_h3_refiner "
    "flux3_mode ideogram4_block",
    weight_without_one_plus: "krea2_block krea2_final krea2_text_block",
    gate_of_attention_dropped: "krea2_block krea2_text_block",
    full_attention: "qwenimage21_block qwenimage21_block_causal qwenimage21_stack",
    causal_inside_images: "qwenimage21_block qwenimage21_block_causal qwenimage21_stack",
    one_row_for_all_tokens: "qwenimage21_block_causal qwenimage21_final qwenimage21_stack minimax_h3_block",
    rows_by_modality_first: "minimax_h3_block",
    modes_exchanged: "flux3_single flux3_stack",
    other_rotary_pairs: "flux_double_rope flux2_double flux2_single qwenimage21_block krea2_block minimax_h3_block "
    "flux3_single ideogram4_block",
    a_true_rotation: "ernie_block ernie_stack",
}
CASES = [(mistake, name) for mistake, names in BROKEN.items() for name in names.split()]


@pytest.mark.parametrize(("mistake", "name"), CASES, ids=lambda p: getattr(p, "__name__", p))
def test_a_broken_block_does_not_replay(monkeypatch, mistake, name):
    stored = stored_run(name)
    mistake(monkeypatch)
    assert not agrees(stored, golden.build(stored, BUILDERS))
