/* From noise to a picture: adaln_lab/samplers.py, and the noise that torch draws from the same seed.

     Euler   x <- x - dt v(x, t)                                 t = 1 is noise, t = 0 is data
     guided  v = v_null + guidance * (v_label - v_null) */

/** steps + 1 times from 1 (noise) to 0 (data), rounded as torch.linspace rounds them. */
export function timeGrid(steps) {
  const step = Math.fround(-1 / steps), half = Math.floor((steps + 1) / 2);
  return Array.from({ length: steps + 1 }, (_, i) => Math.fround(i < half ? 1 + step * i : -step * (steps - i)));
}

/** velocity(x, i) for label y at time i of `times`. The modulation of all times is computed here, once. */
export function guided(model, y, times, guidance, precompute) {
  const pre = (label) => times.map((t) => precompute(t, label));
  const labelled = guidance === 0 ? null : pre(y);
  const unlabelled = guidance === 1 ? null : pre(model.config.n_classes);
  const velocity = (x, i, watch) => {
    if (guidance === 0) return model.forwardWith(x, unlabelled[i], watch);
    const v = model.forwardWith(x, labelled[i], watch);
    if (guidance === 1) return v;
    const vNull = model.forwardWith(x, unlabelled[i]);
    return v.map((value, p) => vNull[p] + guidance * (value - vNull[p]));
  };
  return { velocity, table: labelled ?? unlabelled };
}

/** Yields {t, x, v, sizes} for every time: the noisy picture, the velocity there, the stream's size after each block. */
export function* euler(velocity, x, times) {
  for (let i = 0; i < times.length; i++) {
    const sizes = [];
    const v = velocity(x, i, (stream) => sizes.push(Math.sqrt(stream.reduce((sum, z) => sum + z * z, 0) / stream.length)));
    yield { t: times[i], x, v, sizes };
    if (i + 1 < times.length) x = x.map((value, p) => value + (times[i + 1] - times[i]) * v[p]);
  }
}

export const clamp = (image) => image.map((value) => Math.min(1, Math.max(-1, value)));

/** The numbers of torch's generator, MT19937, from a seed. */
function* mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  while (true) {
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    for (let z of state) {
      z ^= z >>> 11;
      z ^= (z << 7) & 0x9d2c5680;
      z ^= (z << 15) & 0xefc60000;
      yield (z ^ (z >>> 18)) >>> 0;
    }
  }
}

/** torch.randn(count, generator=torch.Generator().manual_seed(seed)), for a multiple of 16 numbers. */
export function randn(count, seed) {
  const numbers = mersenneTwister(seed), result = new Float64Array(count);
  for (let i = 0; i < count; i++) result[i] = (numbers.next().value & 0xffffff) / 2 ** 24;
  for (let start = 0; start < count; start += 16) {
    for (let i = start; i < start + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - result[i])), angle = 2 * Math.PI * result[i + 8];
      result[i] = Math.fround(radius * Math.cos(angle));
      result[i + 8] = Math.fround(radius * Math.sin(angle));
    }
  }
  return result;
}
