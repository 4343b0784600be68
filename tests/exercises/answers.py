"""Answers that readers could give, and what a fair check says to each.

verdict  "ok"       a right answer, in whatever way it is written; with `words` it may also be refused in one of them
         "not yet"  a wrong answer; if there are `words`, the message must hold one of them, in lower case
         "to do"    nothing was written yet
"""

from typing import NamedTuple


class Answer(NamedTuple):
    id: str
    verdict: str
    code: str  # defines the function that is checked, the last one
    words: tuple[str, ...] = ()


INPLACE = (
    "in place",
    "in-place",
    "inplace",
    "copy",
    "clone",
    "overwr",
    "its input",
    "your input",
    "the input",
    "argument",
    "caller",
    "was given",
    "is given",
    "handed",
    "changes x",
    "change x",
    "you change",
    "you changed",
    "+=",
    "alter",
    "modif",
)
GRAPH = ("grad", "detach", "backward", "graph", "learn", "train")
TUPLE = ("tuple", "comma", "list of one", "one item")
ONE_PLUS = ("1 +", "1+", "one plus", "plus one", "plus 1", "add 1", "adds 1", "added 1", "adding 1", "the 1")
SWAPPED = ("swap", "exchang", "changed places", "change places", "each other", "order", "other way round", "mixed up")

ANSWERS = (
    Answer(  # the norm written out, with the package's eps
        "modulated-by-hand",
        "ok",
        """
def modulated(x, shift, scale):
    mean = x.mean(dim=-1, keepdim=True)
    var = x.var(dim=-1, keepdim=True, unbiased=False)
    normed = (x - mean) / torch.sqrt(var + 1e-6)
    return normed * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
""",
    ),
    Answer(  # in place, but on a new tensor: no input changes
        "modulated-in-place-on-a-copy",
        "ok",
        """
def modulated(x, shift, scale):
    h = layer_norm(x)
    h *= 1 + scale[:, None]
    h += shift[:, None]
    return h
""",
    ),
    Answer(  # the caller's scale grows by 1 at every call
        "modulated-scale-in-place",
        "not yet",
        """
def modulated(x, shift, scale):
    scale += 1
    return layer_norm(x) * scale[:, None] + shift[:, None]
""",
        (*INPLACE, "changes scale", "change scale"),
    ),
    Answer(  # shift is scaled as well
        "modulated-shift-first",
        "not yet",
        """
def modulated(x, shift, scale):
    return (layer_norm(x) + shift[:, None]) * (1 + scale[:, None])
""",
        ("shift",),
    ),
    Answer(  # torch's own
        "normalised-torch",
        "ok",
        """
def normalised(x, gamma, beta, eps):
    return F.layer_norm(x, (x.shape[-1],), weight=gamma, bias=beta, eps=eps)
""",
    ),
    Answer(  # E[x^2] - E[x]^2 is the variance
        "normalised-mean-of-squares",
        "ok",
        """
def normalised(x, gamma, beta, eps):
    mean = x.mean(-1, keepdim=True)
    var = (x ** 2).mean(-1, keepdim=True) - mean ** 2
    return (x - mean) / (var + eps) ** 0.5 * gamma + beta
""",
    ),
    Answer(  # statistics in float32 and back, as language models have it
        "normalised-in-float32",
        "ok",
        """
def normalised(x, gamma, beta, eps):
    x32 = x.float()
    mean = x32.mean(-1, keepdim=True)
    var = (x32 - mean).pow(2).mean(-1, keepdim=True)
    return ((x32 - mean) * torch.rsqrt(var + eps)).to(x.dtype) * gamma + beta
""",
    ),
    Answer(  # one mean and one variance for the whole batch
        "normalised-whole-tensor",
        "not yet",
        """
def normalised(x, gamma, beta, eps):
    mean, var = x.mean(), x.var()
    return gamma * (x - mean) / torch.sqrt(var + eps) + beta
""",
        ("token", "whole", "last axis", "keepdim", "dim=", "everything", "channels"),
    ),
    Answer(  # a bracket too few: eps is added to the quotient
        "normalised-eps-on-the-result",
        "not yet",
        """
def normalised(x, gamma, beta, eps):
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, correction=0, keepdim=True)
    return gamma * ((x - mean) / std + eps) + beta
""",
        ("eps",),
    ),
    Answer(  # the caller's x comes back normalised
        "normalised-in-place",
        "not yet",
        """
def normalised(x, gamma, beta, eps):
    x -= x.mean(-1, keepdim=True)
    x /= (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * gamma + beta
""",
        INPLACE,
    ),
    Answer(  # written, but nothing is returned
        "normalised-prints",
        "not yet",
        """
def normalised(x, gamma, beta, eps):
    centred = x - x.mean(-1, keepdim=True)
    y = gamma * centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() + beta
    print(y.shape)
""",
        ("return",),
    ),
    Answer(  # the Jacobian is built and multiplied
        "norm-backward-jacobian",
        "ok",
        """
def norm_backward(dy, x_hat, sigma, gamma):
    D = x_hat.shape[-1]
    eye = torch.eye(D, dtype=dy.dtype)
    J = (eye - 1 / D - x_hat[..., :, None] * x_hat[..., None, :] / D) / sigma[..., None]
    dx = torch.einsum("bti,btij->btj", dy * gamma, J)
    return dx, torch.einsum("btd,btd->d", dy, x_hat), torch.einsum("btd->d", dy)
""",
    ),
    Answer(  # dbeta stands before dgamma
        "norm-backward-last-two-swapped",
        "not yet",
        """
def norm_backward(dy, x_hat, sigma, gamma):
    g = dy * gamma
    dx = (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) / sigma
    dbeta, dgamma = dy.sum((0, 1)), (dy * x_hat).sum((0, 1))
    return dx, dbeta, dgamma
""",
        SWAPPED,
    ),
    Answer(  # a straight line through all tokens
        "read-off-least-squares",
        "ok",
        """
def read_off(n, h):
    dn, dh = n - n.mean(1, keepdim=True), h - h.mean(1, keepdim=True)
    slope = (dn * dh).sum(1, keepdim=True) / (dn * dn).sum(1, keepdim=True)
    return slope - 1, h.mean(1, keepdim=True) - slope * n.mean(1, keepdim=True)
""",
    ),
    Answer(  # the shift is not 0
        "read-off-ratio",
        "not yet",
        """
def read_off(n, h):
    scale = (h / n - 1).mean(1, keepdim=True)
    return scale, (h - n * (1 + scale)).mean(1, keepdim=True)
""",
        ("shift", "scale"),
    ),
    Answer(  # the formula as it stands
        "fold-diag",
        "ok",
        """
def fold_into_linear(weight, bias, scale, shift):
    return weight @ torch.diag(1 + scale), F.linear(shift, weight, bias)
""",
    ),
    Answer(  # right numbers, and the old Linear is gone
        "fold-in-place",
        "not yet",
        """
def fold_into_linear(weight, bias, scale, shift):
    bias += weight @ shift
    weight *= 1 + scale
    return weight, bias
""",
        (*INPLACE, "changes weight", "change weight"),
    ),
    Answer(  # without instance_norm
        "ada-in-by-hand",
        "ok",
        """
def ada_in(content, style):
    def stats(maps):
        return maps.mean(2, keepdim=True), maps.var(2, unbiased=False, keepdim=True)
    c_mean, c_var = stats(content)
    s_mean, s_var = stats(style)
    return (content - c_mean) * torch.rsqrt(c_var + 1e-5) * s_var.sqrt() + s_mean
""",
    ),
    Answer(  # DiT's own spelling
        "block-dit",
        "ok",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = linear(F.silu(c)).chunk(6, dim=1)

    def mod(h, shift, scale):
        return layer_norm(h) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    x = x + gate_msa.unsqueeze(1) * attn(mod(x, shift_msa, scale_msa))
    x = x + gate_mlp.unsqueeze(1) * mlp(mod(x, shift_mlp, scale_mlp))
    return x
""",
    ),
    Answer(  # h + shift + h scale, and addcmul
        "block-unflatten",
        "ok",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    m = linear(c * c.sigmoid()).reshape(len(c), 2, 3, 1, -1)
    for i, branch in enumerate([attn, mlp]):
        shift, scale, gate = m[:, i].unbind(1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        x = torch.addcmul(x, gate, branch(torch.addcmul(h + shift, h, scale)))
    return x
""",
    ),
    Answer(  # += writes into the caller's stream
        "block-in-place",
        "not yet",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x += g1 * attn(layer_norm(x) * (1 + k1) + s1)
    x += g2 * mlp(layer_norm(x) * (1 + k2) + s2)
    return x
""",
        INPLACE,
    ),
    Answer(  # a block that cannot be trained; the next cell compares gradients
        "block-no-grad",
        "not yet",
        """
@torch.no_grad()
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + g1 * attn(layer_norm(x) * (1 + k1) + s1)
    return x + g2 * mlp(layer_norm(x) * (1 + k2) + s2)
""",
        GRAPH,
    ),
    Answer(  # scale without 1 +
        "block-no-one-plus",
        "not yet",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + g1 * attn(layer_norm(x) * k1 + s1)
    return x + g2 * mlp(layer_norm(x) * k2 + s2)
""",
        ONE_PLUS,
    ),
    Answer(  # gates that start half open
        "block-sigmoid-gates",
        "not yet",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + torch.sigmoid(g1) * attn(layer_norm(x) * (1 + k1) + s1)
    return x + torch.sigmoid(g2) * mlp(layer_norm(x) * (1 + k2) + s2)
""",
        ("sigmoid",),
    ),
    Answer(  # the stream is modulated as it is
        "block-no-norm",
        "not yet",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + g1 * attn(x * (1 + k1) + s1)
    return x + g2 * mlp(x * (1 + k2) + s2)
""",
        ("norm", "x itself"),
    ),
    Answer(  # a copied line: attention's gate for the MLP
        "block-gate-1-twice",
        "not yet",
        """
def adaln_zero_block(x, c, linear, attn, mlp):
    s1, k1, g1, s2, k2, g2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + g1 * attn(layer_norm(x) * (1 + k1) + s1)
    return x + g1 * mlp(layer_norm(x) * (1 + k2) + s2)
""",
        ("gate",),
    ),
    Answer(  # einsum
        "gate-gradient-einsum",
        "ok",
        """
def gate_gradient(grad_out, branch):
    return torch.einsum("btd,btd->bd", grad_out, branch).unsqueeze(1)
""",
    ),
    Answer(  # a comma at the end makes a tuple
        "gate-gradient-comma",
        "not yet",
        """
def gate_gradient(grad_out, branch):
    votes = grad_out * branch
    return votes.sum(1, keepdim=True),
""",
        TUPLE,
    ),
    Answer(  # six chunks, two of them stacked
        "gate-rows-chunks",
        "ok",
        """
def gate_rows(weight):
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = weight.chunk(6)
    return torch.stack([gate_1, gate_2])
""",
    ),
    Answer(  # shape[1] is the width of the condition; D is a sixth of the rows
        "gate-rows-width-of-c",
        "not yet",
        """
def gate_rows(weight):
    D = weight.shape[1]
    return torch.stack([weight[2 * D : 3 * D], weight[5 * D : 6 * D]])
""",
        (
            "shape[0]",
            "/ 6",
            "/6",
            "6d",
            "6 d",
            "sixth",
            "width of c",
            "width of the cond",
            "column",
            "square",
            "shape[1]",
        ),
    ),
    Answer(  # an identity in float32 loses nothing
        "jacobian-float32-eye",
        "ok",
        """
def block_jacobian(gate, jacobian):
    return torch.eye(len(gate)) + torch.diag(gate) @ jacobian
""",
    ),
    Answer(  # gate @ J is a vector, added to every row
        "jacobian-vector-product",
        "not yet",
        """
def block_jacobian(gate, jacobian):
    return torch.eye(len(gate), dtype=gate.dtype) + gate @ jacobian
""",
    ),
    Answer(  # torch's Adam takes the step
        "adam-torch",
        "ok",
        """
def adam_first_step(grad, lr, eps):
    weight = torch.zeros_like(grad, requires_grad=True)
    weight.grad = grad.clone()
    torch.optim.Adam([weight], lr=lr, eps=eps).step()
    return weight.detach()
""",
    ),
    Answer(  # sqrt(g^2) is |g|: negative gradients go the wrong way
        "adam-no-absolute-value",
        "not yet",
        """
def adam_first_step(grad, lr, eps):
    return -lr * grad / (grad + eps)
""",
        ("abs", "sign", "|", "root of the square", "sqrt", "size", "positive"),
    ),
    Answer(  # columns instead of rows
        "pull-back-reversed",
        "ok",
        """
def pull_back(grad, jacobians):
    for J in reversed(list(jacobians)):
        grad = (J.T @ grad.T).T
    return grad
""",
    ),
    Answer(  # range stops before 0
        "pull-back-block-0-left-out",
        "not yet",
        """
def pull_back(grad, jacobians):
    for l in range(len(jacobians) - 1, 0, -1):
        grad = grad @ jacobians[l]
    return grad
""",
        ("first block", "block 0", "left out", "leave out", "missing", "stop", "one short", "all l"),
    ),
    Answer(  # RMS written out
        "sandwich-by-hand",
        "ok",
        """
def sandwich_branch(x, scale, gate, branch):
    def rms(h):
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
    return x + gate.tanh() * rms(branch(rms(x) * (1 + scale)))
""",
    ),
    Answer(  # layer norm with the package's eps
        "sandwich-layer-norm",
        "not yet",
        """
def sandwich_branch(x, scale, gate, branch):
    return x + torch.tanh(gate) * layer_norm(branch(layer_norm(x) * (1 + scale)))
""",
        ("layer norm", "layernorm", "layer_norm", "mean", "rms"),
    ),
    Answer(  # torch raises NotImplementedError for a module without forward; that is an error, and not a stub
        "sandwich-forward-misspelt",
        "not yet",
        """
class RMS(torch.nn.Module):
    def foward(self, x):
        return F.rms_norm(x, x.shape[-1:], eps=1e-5)

def sandwich_branch(x, scale, gate, branch):
    rms = RMS()
    return x + torch.tanh(gate) * rms(branch(rms(x) * (1 + scale)))
""",
        ("notimplementederror", "not implemented", "raised", "forward"),
    ),
    Answer(  # all blocks less those that are skipped
        "depth-one-minus",
        "ok",
        """
def effective_depth(r):
    return len(r) - (1 / (1 + r)).sum()
""",
    ),
    Answer(  # the right number as a Python float
        "depth-item",
        "ok",
        """
def effective_depth(r):
    return (r / (1 + r)).sum().item()
""",
        ("tensor", "item()", "float"),
    ),
    Answer(  # lerp
        "flow-lerp",
        "ok",
        """
def flow_pair(x_0, noise, t):
    return torch.lerp(x_0, noise, t[:, None, None, None]), noise - x_0
""",
    ),
    Answer(  # the way that is left, not the velocity
        "flow-target-from-x-t",
        "not yet",
        """
def flow_pair(x_0, noise, t):
    t = t.view(-1, 1, 1, 1)
    x_t = (1 - t) * x_0 + t * noise
    return x_t, noise - x_t
""",
        ("noise - x_t", "x_0", "way", "1 - t", "derivative", "still to", "remain"),
    ),
    Answer(  # t meets rows of pixels, or nothing at all
        "flow-t-without-axes",
        "not yet",
        """
def flow_pair(x_0, noise, t):
    t = t[:, None]
    return (1 - t) * x_0 + t * noise, noise - x_0
""",
    ),
    Answer(  # im2col without overlap
        "patchify-unfold",
        "ok",
        """
def patchify(images, patch):
    return F.unfold(images, kernel_size=patch, stride=patch).transpose(1, 2)
""",
    ),
    Answer(  # unfold has tokens on the last axis
        "patchify-not-transposed",
        "not yet",
        """
def patchify(images, patch):
    return F.unfold(images, patch, stride=patch)
""",
        ("shape", "transpos"),
    ),
    Answer(  # torch's module without weights
        "branch-layer-norm-module",
        "ok",
        """
def modulated_branch(x, shift, scale, gate, branch):
    norm = nn.LayerNorm(x.shape[-1], eps=1e-6, elementwise_affine=False)
    return x + gate * branch(norm(x) * (1 + scale) + shift)
""",
    ),
    Answer(  # what the branch hears is gated, not what it says
        "branch-gate-inside",
        "not yet",
        """
def modulated_branch(x, shift, scale, gate, branch):
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return x + branch(gate * h)
""",
        ("gate",),
    ),
    Answer(  # += writes into the caller's stream
        "branch-in-place",
        "not yet",
        """
def modulated_branch(x, shift, scale, gate, branch):
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    x += gate * branch(h * (1 + scale) + shift)
    return x
""",
        INPLACE,
    ),
    Answer(  # scale and shift would never learn
        "branch-no-grad",
        "not yet",
        """
def modulated_branch(x, shift, scale, gate, branch):
    with torch.no_grad():
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return x + gate * branch(h)
""",
        GRAPH,
    ),
    Answer(  # lerp goes on beyond 1
        "guided-lerp",
        "ok",
        """
def guided(v_label, v_null, guidance):
    return torch.lerp(v_null, v_label, guidance)
""",
    ),
    Answer(  # two weights that sum to 1
        "guided-weights",
        "ok",
        """
def guided(v_label, v_null, guidance):
    both = torch.stack([v_label, v_null])
    weights = torch.tensor([guidance, 1 - guidance], dtype=both.dtype)
    return torch.einsum("i,i...->...", weights, both)
""",
    ),
    Answer(  # the prediction is added, not its difference
        "guided-label-added",
        "not yet",
        """
def guided(v_label, v_null, guidance):
    return v_null + guidance * v_label
""",
        ("difference", "direction", "- v_null", "subtract", "minus"),
    ),
    Answer(  # variances that divide by n add up
        "shares-var",
        "ok",
        """
def variance_shares(m):
    total = m.var((0, 1), correction=0).sum()
    by_t = m.mean(1).var(0, correction=0).sum() / total
    by_label = m.mean(0).var(0, correction=0).sum() / total
    return torch.stack([by_t, by_label, 1 - by_t - by_label])
""",
    ),
    Answer(  # three numbers where a tensor (3,) is asked for, and the next cell stacks it
        "shares-tuple",
        "not yet",
        """
def variance_shares(m):
    total = m.var((0, 1), correction=0).sum()
    by_t = m.mean(1).var(0, correction=0).sum() / total
    by_label = m.mean(0).var(0, correction=0).sum() / total
    return by_t, by_label, 1 - by_t - by_label
""",
        ("stack", "one tensor", "3 item", "three items", "tuple"),
    ),
    Answer(  # the mask as a factor; the means cancel
        "footprint-masked",
        "ok",
        """
def footprint(before, after, inside):
    change = torch.abs(after - before)
    return (change * inside).sum() / change.sum()
""",
    ),
    Answer(  # a mean of shares counts a picture that hardly changes like any other
        "footprint-per-picture",
        "not yet",
        """
def footprint(before, after, inside):
    change = (after - before).abs()
    shares = (change * inside).sum((1, 2, 3)) / change.sum((1, 2, 3))
    return shares.mean()
""",
        ("picture", "each image", "mean of shares", "average of", "mean of the shares"),
    ),
    Answer(  # torch's own
        "attention-torch",
        "ok",
        """
def cross_attention(h, ctx, w_q, w_k, w_v):
    return F.scaled_dot_product_attention(h @ w_q, ctx @ w_k, ctx @ w_v)
""",
    ),
    Answer(  # shape[1] counts tokens; the root is of the width
        "attention-root-of-tokens",
        "not yet",
        """
def cross_attention(h, ctx, w_q, w_k, w_v):
    q, k, v = h @ w_q, ctx @ w_k, ctx @ w_v
    scores = q @ k.mT / h.shape[1] ** 0.5
    return scores.softmax(-1) @ v
""",
        ("sqrt(d)", "root of d", "square root", "width", "tokens", "shape[1]", "d **"),
    ),
    Answer(  # columns in another order
        "same-bag-permuted",
        "ok",
        """
def same_bag(words):
    order = list(range(11))
    order[4], order[8] = order[8], order[4]
    return words[:, order]
""",
    ),
    Answer(  # a colour is kept, but the caller's caption changes
        "same-bag-in-place",
        "not yet",
        """
def same_bag(words):
    first = words[:, 4].clone()
    words[:, 4] = words[:, 8]
    words[:, 8] = first
    return words
""",
        (*INPLACE, "changes words", "change words", "changes the caption"),
    ),
    Answer(  # one loop for both branches
        "lumina-loop",
        "ok",
        """
def lumina_block(x, vectors, norms, attn, mlp):
    s1, g1, s2, g2 = vectors
    n1, n2, n3, n4 = norms
    for s, g, before, branch, after in ((s1, g1, n1, attn, n2), (s2, g2, n3, mlp, n4)):
        h = before(x)
        x = x + g.tanh() * after(branch(h + s * h))
    return x
""",
    ),
    Answer(  # the second sum starts from x, and what attention said is lost
        "lumina-out-from-x",
        "not yet",
        """
def lumina_block(x, vectors, norms, attn, mlp):
    s1, g1, s2, g2 = vectors
    u = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](u) * (1 + s2)))
""",
        ("stream", "to u", "from u", "u +", "attention", "second residual", "second skip", "lost"),
    ),
    Answer(  # x is assigned, as in the original
        "hdm-rebound",
        "ok",
        """
def hdm_step(x, vectors, norm, branch):
    s, b, g = vectors
    x = norm(x)
    x = x + x * s + b
    x = x + branch(x) * (1 + g)
    return x
""",
    ),
    Answer(  # scale without 1 +
        "hdm-no-one-plus",
        "not yet",
        """
def hdm_step(x, vectors, norm, branch):
    s, b, g = vectors
    a = norm(x) * s + b
    return a + (1 + g) * branch(a)
""",
        ONE_PLUS,
    ),
    Answer(  # rolled by half
        "halves-roll",
        "ok",
        """
def swap_halves(weight):
    return weight.roll(weight.shape[0] // 2, dims=0)
""",
    ),
    Answer(  # 12 (L - 1) + 10 is 12 L - 2
        "sd3-short",
        "ok",
        """
def sd3_modulation(depth, width):
    return (12 * depth - 2) * width * (width + 1)
""",
    ),
    Answer(  # six vectors a block, as in DiT; here two streams have six each
        "sd3-six-a-block",
        "not yet",
        """
def sd3_modulation(depth, width):
    return (6 * depth + 2) * (width ** 2 + width)
""",
        ("12", "stream", "text", "two linears", "twice", "both"),
    ),
    Answer(  # a Linear as a matrix product, the text cut off from the front
        "flux2-by-hand",
        "ok",
        """
def flux2_stack(x, ctx, c, weights, double, single):
    s = c * torch.sigmoid(c)
    img, txt, one = [(s @ w.T)[:, None, :] for w in weights]
    x, ctx = double(x, ctx, img, txt)
    return single(torch.cat((ctx, x), 1), one)[:, -x.shape[1]:]
""",
    ),
    Answer(  # vectors for each token, equal in all: more memory, the same numbers
        "flux2-expanded",
        "ok",
        """
def flux2_stack(x, ctx, c, weights, double, single):
    img, txt, one = (F.linear(F.silu(c), w)[:, None] for w in weights)
    x, ctx = double(x, ctx, img.expand(-1, x.shape[1], -1), txt)
    both = torch.cat([ctx, x], dim=1)
    return single(both, one.expand(-1, both.shape[1], -1))[:, ctx.shape[1]:]
""",
    ),
    Answer(  # the double blocks get no SiLU, the single ones do
        "flux2-silu-once",
        "not yet",
        """
def flux2_stack(x, ctx, c, weights, double, single):
    img, txt = (F.linear(c, w)[:, None] for w in weights[:2])
    x, ctx = double(x, ctx, img, txt)
    both = single(torch.cat([ctx, x], dim=1), F.linear(F.silu(c), weights[2])[:, None])
    return both[:, ctx.shape[1]:]
""",
    ),
    Answer(  # the first tokens are the text
        "flux2-first-tokens",
        "not yet",
        """
def flux2_stack(x, ctx, c, weights, double, single):
    img, txt, one = (F.linear(F.silu(c), w)[:, None] for w in weights)
    x, ctx = double(x, ctx, img, txt)
    return single(torch.cat([ctx, x], dim=1), one)[:, : x.shape[1]]
""",
    ),
    Answer(  # max and min with values
        "varies-max-min",
        "ok",
        """
def varies(made):
    spread = lambda axis: (made.max(axis).values - made.min(axis).values).max()
    return spread(1), spread(0)
""",
    ),
    Answer(  # two right numbers, as Python floats; the next cells only compare them
        "varies-item",
        "ok",
        """
def varies(made):
    over_tokens = (made.amax(1) - made.amin(1)).max().item()
    over_items = (made.amax(0) - made.amin(0)).max().item()
    return over_tokens, over_items
""",
    ),
    Answer(  # whether they vary, where the question is how far
        "varies-whether",
        "not yet",
        """
def varies(made):
    return (made.amax(1) - made.amin(1)).max() > 0, (made.amax(0) - made.amin(0)).max() > 0
""",
    ),
    Answer(  # yes or no as a bool tensor
        "moves-bool",
        "ok",
        """
def moves(x, module, name):
    p = module.get_parameter(name)
    with torch.no_grad():
        before, kept = module(x), p.clone()
        p.add_(torch.randn_like(p))
        moved = ((module(x) - before).abs() > 1e-6).any()
        p.copy_(kept)
    return moved, p
""",
    ),
    Answer(  # zero times anything is zero, and a norm swallows a factor
        "moves-fixed-factor",
        "not yet",
        """
def moves(x, module, name):
    p = module.get_parameter(name).data
    before, kept = module(x), p.clone()
    p *= 1.1
    moved = ((module(x) - before).abs().max() > 1e-6).double()
    return moved, p.copy_(kept)
""",
        ("multipl", "factor", "times", "zero", "1.1"),
    ),
    Answer(  # if and elif
        "opening-chain",
        "ok",
        """
def opening(g, bounding):
    if bounding == "raw":
        return g
    elif bounding == "tanh":
        return torch.tanh(g)
    elif bounding == "sigmoid":
        return 1 / (1 + torch.exp(-g))
    elif bounding == "1+g":
        return g + 1
    return g * 0 + 1
""",
    ),
    Answer(  # one F.linear
        "stacked-linear",
        "ok",
        """
def stacked(c, weights, biases):
    out = F.linear(c, torch.cat(list(weights)), torch.cat(list(biases)))
    return out.view(c.shape[0], len(weights), -1).permute(1, 0, 2)
""",
    ),
    Answer(  # one product for each block, where one for all is asked for
        "stacked-loop",
        "not yet",
        """
def stacked(c, weights, biases):
    out = []
    for weight, bias in zip(weights, biases):
        out.append(F.linear(c, weight, bias))
    return torch.stack(out)
""",
        ("loop", "one product", "one matrix product", "single", "one by one", "one call", "products"),
    ),
    Answer(  # chunk cuts neighbours
        "shard-chunk",
        "ok",
        """
def shard(rows, rank, size):
    return rows.chunk(size)[rank]
""",
    ),
    Answer(  # 8 P (1 - 1 / N)
        "ring-eight",
        "ok",
        """
def ring_bytes(parameters, processes):
    return 8 * parameters * (1 - 1 / processes)
""",
    ),
    Answer(  # nothing was written yet
        "ring-pass",
        "to do",
        """
def ring_bytes(parameters, processes):
    pass  # later
""",
    ),
    Answer(  # 32 bits are four bytes
        "ring-bits",
        "not yet",
        """
def ring_bytes(parameters, processes):
    return 2 * (processes - 1) / processes * 32 * parameters
""",
        ("bit", "four", "eight", "4 byte", "32"),
    ),
)
