/* The page around the model: controls, pictures, and a link that holds the state. */

import { PARTS, TinyDiT, atTime, forLabel, patched, scaled } from "./model.js";
import { clamp, euler, guided, randn, timeGrid } from "./samplers.js";
import { fetchWeights } from "./weights.js";

const SNAPSHOTS = ["step0", "step5", "step10", "step20", "step40", "step80", "trained"];
const BLOCKS = [0, 1, 2, 3], ROWS = ["attn gate", "mlp gate", "scale", "shift"], NO_DIGIT = 10;
const ones = () => BLOCKS.map(() => 1);
const START = () => ({
  digit: 3, seed: 0, guidance: 2, steps: 6, "attn gate": ones(), "mlp gate": ones(), scale: ones(), shift: ones(),
  stopped: 0, time: 0.5, blocks: [0, 0, 0, 0], donor: 8, training: SNAPSHOTS.length - 1,
});
const RANGES = { // of each number: lowest, highest, step
  digit: [0, NO_DIGIT, 1], seed: [0, 999999, 1], guidance: [0, 6, 0.1], steps: [1, 12, 1], "attn gate": [0, 2, 0.05],
  "mlp gate": [0, 2, 0.05], scale: [0, 2, 0.05], shift: [0, 2, 0.05], stopped: [0, 1, 1], time: [0, 1, 0.05],
  blocks: [0, 1, 1], donor: [0, 9, 1], training: [0, SNAPSHOTS.length - 1, 1],
};

const at = (id) => document.getElementById(`play-${id}`);
const named = (digit) => (digit === NO_DIGIT ? "no digit" : `the digit ${digit}`);
const rms = (vector) => Math.sqrt(vector.reduce((sum, z) => sum + z * z, 0) / vector.length);
let state = START(), shown = 1, drawn = null, isDue = false, isBusy = false;

function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* The model */

/** The condition as the controls change it. */
function precompute(model) {
  const { digit, donor, time } = state;
  let changed = (t, y) => model.precompute(t, y);
  const blocks = BLOCKS.filter((n) => state.blocks[n]);
  if (blocks.length) changed = patched(changed, forLabel(changed, digit, donor), blocks);
  if (state.stopped) changed = atTime(changed, time);
  for (const n of BLOCKS) {
    for (const branch of ["attn", "mlp"]) {
      for (const part of PARTS) {
        const factor = state[part === "gate" ? `${branch} gate` : part][n];
        if (factor !== 1) changed = scaled(changed, part, factor, n, branch);
      }
    }
  }
  return changed;
}

function draw(model) {
  const times = timeGrid(state.steps);
  const { velocity, table } = guided(model, state.digit, times, state.guidance, precompute(model));
  const steps = [...euler(velocity, randn(model.config.size ** 2, state.seed), times)];
  return { steps, table };
}

/** Draw once for all changes of one frame of the screen, and again if more came while weights were fetched. */
function redraw() {
  isDue = true;
  if (isBusy) return;
  isBusy = true;
  requestAnimationFrame(async () => {
    while (isDue) {
      isDue = false;
      await redrawNow();
    }
    isBusy = false;
  });
}

async function redrawNow() {
  const status = at("status");
  try {
    const model = new TinyDiT(await fetchWeights(SNAPSHOTS[state.training], at("root").dataset.folder));
    const start = performance.now();
    drawn = draw(model);
    show();
    performance.measure("redraw", { start });
    status.setAttribute("role", "status");
    status.textContent = sentence();
  } catch (error) {
    status.setAttribute("role", "alert");
    status.textContent = `Nothing can be drawn: ${error.message}.`;
  }
}

function sentence() {
  const changes = ROWS.flatMap((row) => BLOCKS.filter((n) => state[row][n] !== 1).map((n) => `${row} of block ${n} times ${state[row][n]}`));
  if (state.stopped) changes.push(`the clock stands at ${state.time}`);
  const donated = BLOCKS.filter((n) => state.blocks[n]);
  if (donated.length) changes.push(`block ${donated.join(", ")} gets ${state.donor}`);
  return `Drawn: ${named(state.digit)}, seed ${state.seed}, guidance ${state.guidance}, ${state.steps} steps, ` +
    `${SNAPSHOTS[state.training].replace("step", "training step ")}${changes.length ? "; " + changes.join("; ") : ""}.`;
}

/* Pictures */

function paint(canvas, image) {
  const side = Math.sqrt(image.length), pixels = new ImageData(side, side);
  clamp(image).forEach((value, i) => pixels.data.set([...Array(3).fill((value + 1) * 127.5), 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Which of eight rows by eight columns is bright, in words for those who do not see the picture. */
function described(image) {
  const rows = [...Array(8).keys()].map((r) => [...image.slice(8 * r, 8 * r + 8)].map((z) => (z > 0 ? "#" : ".")).join(""));
  return `drawn as ${named(state.digit)}; bright pixels by rows: ${rows.join(" ")}`;
}

function bars(holder, rows) {
  const most = Math.max(1e-9, ...rows.map(([, value]) => value));
  holder.replaceChildren(element("table", {}, ...rows.map(([name, value, colour]) => element("tr", {},
    element("th", { scope: "row", textContent: name }),
    element("td", { textContent: value.toFixed(2) }),
    element("td", { className: "play-bar", attributes: { "aria-hidden": "true" } },
      element("span", { style: `width:${(100 * value) / most}%;background:${colour}` }))))));
}

const COLOURS = { shift: "#0072B2", scale: "#D55E00", gate: "#009E73" };

function show() {
  const { steps, table } = drawn, last = steps.at(-1);
  shown = Math.min(shown, steps.length - 1);
  paint(at("picture"), last.x);
  at("picture").setAttribute("aria-label", described(last.x));
  if (at("steps").childElementCount !== steps.length) {
    at("steps").replaceChildren(...steps.map((_, i) => element("label", {},
      element("input", { type: "radio", name: "step", value: i, onchange: () => { shown = i; show(); } }),
      element("canvas", { width: 8, height: 8 }), element("canvas", { width: 8, height: 8 }), element("span"))));
  }
  [...at("steps").children].forEach((label, i) => {
    const { t, x, v } = steps[i], [noisy, guess] = label.querySelectorAll("canvas");
    paint(noisy, x);
    paint(guess, x.map((value, p) => value - t * v[p]));
    label.querySelector("span").textContent = `t ${t.toFixed(2)}`;
    label.querySelector("input").checked = i === shown;
  });
  bars(at("sizes"), steps[shown].sizes.map((size, n) => [n ? `block ${n - 1}` : "patches", size, "#767676"]));
  const blocks = table[shown].blocks;
  bars(at("gates"), blocks.flatMap(({ attn, mlp }, n) => [
    [`block ${n}, attention`, rms(attn.gate), COLOURS.gate], [`block ${n}, MLP`, rms(mlp.gate), "#66C2A5"]]));
  heat([
    ...blocks.flatMap(({ attn, mlp }, n) => [["attention", attn], ["MLP", mlp]].flatMap(([branch, m]) =>
      PARTS.map((part) => [`block ${n} ${branch} ${part}`, m[part], COLOURS[part]]))),
    ...["shift", "scale"].map((part) => [`final ${part}`, table[shown].final[part], COLOURS[part]]),
  ]);
}

function heat(rows) {
  if (!at("heat").childElementCount) {
    at("heat").append(element("table", {}, ...rows.map(([name, vector, colour]) => element("tr", {},
      element("th", { scope: "row", textContent: name, style: `border-left:.5em solid ${colour}` }), element("td"),
      element("td", { className: "play-row" }, element("canvas", { width: vector.length, height: 1 }))))));
  }
  rows.forEach(([, vector], i) => {
    const row = at("heat").querySelectorAll("tr")[i], pixels = new ImageData(vector.length, 1);
    vector.forEach((value, d) => {
      const pale = 255 * (1 - Math.min(1, Math.abs(value) / 1.5));
      pixels.data.set(value > 0 ? [255, pale, pale, 255] : [pale, pale, 255, 255], 4 * d);
    });
    row.querySelector("canvas").getContext("2d").putImageData(pixels, 0, 0);
    row.querySelector("td").textContent = rms(vector).toFixed(2);
  });
}

/* Controls: each reads and writes one number of the state. */

const readers = []; // called when the state has changed from outside: reset, link

function put(name, n, value) {
  if (n === undefined) state[name] = value;
  else state[name][n] = value;
  history.replaceState(null, "", written() || location.pathname + location.search);
  at("link").href = location.href;
  redraw();
}

const get = (name, n) => (n === undefined ? state[name] : state[name][n]);

function slider(name, label, n, text = (value) => value.toString()) {
  const [min, max, step] = RANGES[name];
  const input = element("input", { type: "range", min, max, step, attributes: { "data-name": `${name}${n ?? ""}` } });
  const output = element("output");
  const read = () => {
    input.value = get(name, n);
    output.textContent = text(get(name, n));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    put(name, n, Number(input.value));
    read();
  });
  readers.push(read);
  return element("label", { className: "play-slider" }, element("span", { textContent: label }), input, output);
}

function box(input, name, n) {
  readers.push(() => { input.checked = Boolean(get(name, n)); });
  input.addEventListener("change", () => put(name, n, Number(input.checked)));
  return input;
}

function build() {
  for (const digit of [...Array(11).keys()]) {
    const input = element("input", { type: "radio", name: "digit", value: digit, onchange: () => put("digit", undefined, digit) });
    readers.push(() => { input.checked = state.digit === digit; });
    at("digits").append(element("label", {}, input, ` ${digit === NO_DIGIT ? "none" : digit}`));
  }
  readers.push(() => { at("seed").value = state.seed; });
  at("seed").addEventListener("change", () => {
    const [low, high] = RANGES.seed;
    put("seed", undefined, Math.min(high, Math.max(low, Math.round(Number(at("seed").value)) || 0)));
    at("seed").value = state.seed;
  });
  at("next").addEventListener("click", () => {
    put("seed", undefined, (state.seed + 1) % (RANGES.seed[1] + 1));
    at("seed").value = state.seed;
  });
  at("draw").append(slider("guidance", "guidance"), slider("steps", "steps"));
  for (const n of BLOCKS) {
    const labels = ["attention gate", "MLP gate", "scale", "shift"];
    at("strengths").append(element("div", { attributes: { role: "group", "aria-label": `block ${n}` } },
      element("strong", { textContent: `block ${n}` }), ...ROWS.map((row, i) => slider(row, labels[i], n))));
    at("blocks").append(element("label", {}, box(element("input", { type: "checkbox" }), "blocks", n), ` block ${n}`));
  }
  box(at("stop"), "stopped");
  at("clock").append(slider("time", "time t"));
  at("donor").append(...[...Array(10).keys()].map((digit) => element("option", { value: digit, textContent: digit })));
  readers.push(() => { at("donor").value = state.donor; });
  at("donor").addEventListener("change", () => put("donor", undefined, Number(at("donor").value)));
  at("training").append(slider("training", "from untrained to trained", undefined,
    (value) => SNAPSHOTS[value].replace("step", "step ")));
  at("reset").addEventListener("click", () => {
    state = START();
    readers.forEach((read) => read());
    put("digit", undefined, state.digit);
  });
  addEventListener("hashchange", readLink);
}

/** The state as a link: what differs from the start, such as #digit=7&attn_gate=1,0,1,1. */
function written() {
  const start = START();
  const changed = Object.keys(start).filter((name) => String(state[name]) !== String(start[name]));
  return changed.length ? "#" + changed.map((name) => `${name.replace(" ", "_")}=${state[name]}`).join("&") : "";
}

/** From the link's part after #; what is no number in its range is left as at the start. */
function readLink() {
  state = START();
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    const name = key.replace("_", " "), numbers = text.split(",").map(Number);
    if (!(name in RANGES)) continue;
    const [low, high, step] = RANGES[name];
    const isGood = (z) => z >= low && z <= high && (step < 1 || Number.isInteger(z));
    const isList = Array.isArray(state[name]);
    if (numbers.length === (isList ? BLOCKS.length : 1) && numbers.every(isGood)) state[name] = isList ? numbers : numbers[0];
  }
  readers.forEach((read) => read());
  at("link").href = location.href;
  redraw();
}

if (at("root")) {
  at("root").hidden = false;
  build();
  readLink();
}
