/* What the JavaScript computes, for parity.py: node parity.mjs < questions.json > answers.json */

import { readFileSync } from "node:fs";
import { TinyDiT, atTime, forLabel, patched, scaled } from "./model.js";
import { clamp, euler, guided, randn, timeGrid } from "./samplers.js";
import { unpack } from "./weights.js";

const { weights, forwards, pictures, noises } = JSON.parse(readFileSync(0));
const model = new TinyDiT(unpack(weights));
const flat = (pre) => [
  ...pre.blocks.flatMap(({ attn, mlp }) => [attn, mlp].flatMap((m) => [...m.shift, ...m.scale, ...m.gate])),
  ...pre.final.shift, ...pre.final.scale,
];

const own = (t, y) => model.precompute(t, y);
function changed({ y, factor, block, donor, time }) {
  let precompute = own;
  if (donor !== undefined) precompute = patched(precompute, forLabel(own, y, donor), [block]);
  if (time !== undefined) precompute = atTime(precompute, time);
  if (factor !== undefined) precompute = scaled(scaled(precompute, "gate", factor, block, "mlp"), "shift", factor, 0, "attn");
  return precompute;
}

const start = performance.now();
const answers = {
  forwards: forwards.map(({ x, t, y }) => {
    const pre = model.precompute(t, y);
    return { v: [...model.forwardWith(Float64Array.from(x), pre)], modulation: flat(pre) };
  }),
  pictures: pictures.map((asked) => {
    const { velocity } = guided(model, asked.y, timeGrid(asked.steps), asked.guidance, changed(asked));
    let last;
    for (const step of euler(velocity, randn(64, asked.seed), timeGrid(asked.steps))) last = step.x;
    return [...clamp(last)];
  }),
  noises: noises.map((seed) => [...randn(64, seed)]),
  grids: [...Array(40).keys()].map((n) => timeGrid(n + 1)),
};
answers.seconds = (performance.now() - start) / 1000;
process.stdout.write(JSON.stringify(answers));
