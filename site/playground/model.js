/* TinyDiT in plain JavaScript: the forward pass of adaln_lab/dit.py, adaln_zero variant, one picture at a time.

     image -> patches + positions -> blocks, each told t and y -> final adaptive norm -> Linear -> image

   T tokens, D width, C width of c, H heads, P patch; 6 vectors a block: shift, scale, gate of attention and of the MLP.
   An array (T, D) is a Float64Array with its rows one after the other. */

const TIME_SCALE = 1000;
const EPS = 1e-6;
const BRANCHES = ["attn", "mlp"];
const PARTS = ["shift", "scale", "gate"];

/** h (n, in) -> h W^T + b, (n, out). */
function linear(h, { weight, bias }) {
  const [outs, ins] = weight.shape, w = weight.data, rows = h.length / ins;
  const result = new Float64Array(rows * outs);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outs; o++) {
      let a = r * ins, b = o * ins, sum0 = bias.data[o], sum1 = 0, sum2 = 0, sum3 = 0; // added side by side: faster
      for (const end = a + ins; a < end; a += 4, b += 4) {
        sum0 += h[a] * w[b];
        sum1 += h[a + 1] * w[b + 1];
        sum2 += h[a + 2] * w[b + 2];
        sum3 += h[a + 3] * w[b + 3];
      }
      result[r * outs + o] = sum0 + sum1 + sum2 + sum3;
    }
  }
  return result;
}

const silu = (h) => h.map((z) => z / (1 + Math.exp(-z)));
/** z / 2 * (1 + tanh(u)), the tanh form of GELU, written with one exp: 1 + tanh(u) = 2 / (1 + exp(-2 u)). */
const gelu = (h) => h.map((z) => z / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (z + 0.044715 * z * z * z))));
const add = (a, b) => a.map((value, i) => value + b[i]);

/** Each token of x (T, D) to mean 0 and variance 1. */
function layerNorm(x, width) {
  const result = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0, variance = 0;
    for (let d = 0; d < width; d++) mean += x[start + d] / width;
    for (let d = 0; d < width; d++) variance += (x[start + d] - mean) ** 2 / width;
    const divisor = Math.sqrt(variance + EPS);
    for (let d = 0; d < width; d++) result[start + d] = (x[start + d] - mean) / divisor;
  }
  return result;
}

/** h * (1 + scale) + shift: the same for all tokens of h (T, D). */
function modulate(h, { shift, scale }) {
  return h.map((value, i) => value * (1 + scale[i % scale.length]) + shift[i % shift.length]);
}

/** x + gate * branch. */
function gated(x, branch, gate) {
  return x.map((value, i) => value + gate[i % gate.length] * branch[i]);
}

/** softmax(q k^T / sqrt(D / H)) v for each head; qkv (T, 3 D) -> (T, D). */
function attend(qkv, width, heads) {
  const tokens = qkv.length / (3 * width), size = width / heads; // size: D / H
  const result = new Float64Array(tokens * width), weights = new Float64Array(tokens);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < tokens; i++) {
      const q = i * 3 * width + head * size;
      let largest = -Infinity, total = 0;
      for (let j = 0; j < tokens; j++) {
        const k = j * 3 * width + width + head * size;
        weights[j] = 0;
        for (let d = 0; d < size; d++) weights[j] += (qkv[q + d] * qkv[k + d]) / Math.sqrt(size);
        largest = Math.max(largest, weights[j]);
      }
      for (let j = 0; j < tokens; j++) total += weights[j] = Math.exp(weights[j] - largest);
      for (let j = 0; j < tokens; j++) {
        const v = j * 3 * width + 2 * width + head * size;
        for (let d = 0; d < size; d++) result[i * width + head * size + d] += (weights[j] / total) * qkv[v + d];
      }
    }
  }
  return result;
}

/** Cosines, then sines, of s at geometrically spaced frequencies -> (features). */
function sinusoidal(s, features) {
  const half = features / 2, result = new Float64Array(features);
  for (let k = 0; k < half; k++) {
    const angle = s * Math.exp((-Math.log(10000) * k) / half);
    result[k] = Math.cos(angle);
    result[half + k] = Math.sin(angle);
  }
  return result;
}

/** Fixed positions (side * side, D): half of the channels tell the column, half the row; sines, then cosines. */
function positions2d(side, width) {
  const result = new Float64Array(side * side * width), quarter = width / 4;
  for (let token = 0; token < side * side; token++) {
    [token % side, Math.floor(token / side)].forEach((place, axis) => {
      const wave = sinusoidal(place, width / 2);
      for (let k = 0; k < width / 2; k++) {
        result[token * width + (axis * width) / 2 + ((k + quarter) % (width / 2))] = Math.fround(wave[k]);
      }
    });
  }
  return result;
}

/** Image (size, size) -> (T, P * P): patches by rows; in a patch row, then column. */
function patchify(image, size, patch) {
  return image.map((_, i) => image[pixel(i, size, patch)]);
}

/** (T, P * P) -> image (size, size). */
function unpatchify(tokens, size, patch) {
  const image = new Float64Array(tokens.length);
  tokens.forEach((value, i) => { image[pixel(i, size, patch)] = value; });
  return image;
}

/** Which pixel of the image is number i of its patches. */
function pixel(i, size, patch) {
  const token = Math.floor(i / patch ** 2), inside = i % patch ** 2, columns = size / patch;
  const row = Math.floor(token / columns) * patch + Math.floor(inside / patch);
  return row * size + (token % columns) * patch + (inside % patch);
}

/** v = model.forward(x, t, y). `precompute` reads the condition, `forwardWith` the picture. */
export class TinyDiT {
  constructor({ config, tensors }) {
    this.config = config;
    this.tensors = tensors;
    this.positions = positions2d(config.size / config.patch, config.width);
  }

  part(name) {
    return { weight: this.tensors[`${name}.weight`], bias: this.tensors[`${name}.bias`] };
  }

  /** t in [0, 1], y in 0 .. K (K: no label) -> c = t_emb + y_emb, (C). */
  condition(t, y) {
    const first = this.part("t_embed.mlp.0"), table = this.tensors["y_embed.table.weight"];
    const hidden = linear(sinusoidal(t * TIME_SCALE, first.weight.shape[1]), first);
    const tEmb = linear(silu(hidden), this.part("t_embed.mlp.2"));
    return tEmb.map((value, d) => value + table.data[y * tEmb.length + d]);
  }

  /** c -> named vectors of D channels each: [{shift, scale, gate}, ...], one for each branch. */
  toModulation(c, name, branches, parts) {
    const flat = linear(silu(c), this.part(`${name}.to_modulation.linear`)), { width } = this.config;
    const vector = (n) => flat.slice(n * width, (n + 1) * width);
    return [...Array(branches).keys()].map((branch) =>
      Object.fromEntries(parts.map((part, n) => [part, vector(branch * parts.length + n)])));
  }

  /** What the condition does, everywhere in the model; independent of x. */
  precompute(t, y) {
    const c = this.condition(t, y);
    const blocks = [...Array(this.config.depth).keys()].map((n) => {
      const [attn, mlp] = this.toModulation(c, `blocks.${n}`, 2, PARTS);
      return { attn, mlp };
    });
    return { blocks, final: this.toModulation(c, "final", 1, ["shift", "scale"])[0] };
  }

  /** One block: x <- x + gate * Attn(LN(x) (1 + scale) + shift), and the same for the MLP; x (T, D). */
  block(x, n, { attn, mlp }) {
    const { width, heads } = this.config, name = `blocks.${n}`;
    let h = modulate(layerNorm(x, width), attn);
    h = attend(linear(h, this.part(`${name}.attn.qkv`)), width, heads);
    x = gated(x, linear(h, this.part(`${name}.attn.out`)), attn.gate);
    h = modulate(layerNorm(x, width), mlp);
    h = linear(gelu(linear(h, this.part(`${name}.mlp.up`))), this.part(`${name}.mlp.down`));
    return gated(x, h, mlp.gate);
  }

  /** Image (size, size) under a precomputed condition -> velocity (size, size). `watch` gets the stream after each block. */
  forwardWith(image, pre, watch = () => {}) {
    const { size, patch, width } = this.config;
    let x = add(linear(patchify(image, size, patch), this.part("x_embed.linear")), this.positions); // (T, D)
    watch(x);
    pre.blocks.forEach((modulation, n) => {
      x = this.block(x, n, modulation);
      watch(x);
    });
    const v = linear(modulate(layerNorm(x, width), pre.final), this.part("final.linear")); // (T, P * P)
    return unpatchify(v, size, patch);
  }

  forward(image, t, y) {
    return this.forwardWith(image, this.precompute(t, y));
  }
}

/* Change what a condition does, and nothing else: adaln_lab/analysis/interventions.py. A function that precomputes goes
   in, another comes out. */

/** Shift, scale or gate of one branch of one block times `factor`. */
export function scaled(base, part, factor, block, branch) {
  return (t, y) => {
    const pre = base(t, y), vector = pre.blocks[block][branch][part];
    pre.blocks[block][branch][part] = vector.map((value) => value * factor);
    return pre;
  };
}

/** What `donor` gives to some blocks; `base` in the rest of the model. */
export function patched(base, donor, blocks) {
  return (t, y) => {
    const pre = base(t, y), other = donor(t, y);
    return { ...pre, blocks: pre.blocks.map((own, n) => (blocks.includes(n) ? other.blocks[n] : own)) };
  };
}

/** The condition of one t, whatever t is asked for: the clock stands still. */
export const atTime = (base, time) => (t, y) => base(time, y);

/** Wherever `label` is asked for, the condition of `other`. */
export const forLabel = (base, label, other) => (t, y) => base(t, y === label ? other : y);

export { BRANCHES, PARTS };
