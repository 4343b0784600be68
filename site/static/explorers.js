/* Plays the pictures of a notebook's sliders, as frames.py has stored them. Without JavaScript the contact sheet stays. */
"use strict";

(() => {
  const MODES = {
    all: (n) => `All ${n} positions are stored with this page.`,
    coarser: (n) => `${n} positions are stored with this page, fewer than in the notebook.`,
    single: (n) => `${n} pictures are stored with this page, one control at a time: moving one puts the others back to their start.`,
  };
  let count = 0;

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  /** The number of the picture for these positions: the order of chosen() in frames.py. */
  function frameOf({ mode, controls }, places, moved) {
    if (mode === "single") {
      const before = controls.slice(0, moved).reduce((sum, { texts }) => sum + texts.length, 0);
      return before + places[moved];
    }
    return controls.reduce((number, { texts }, i) => number * texts.length + places[i], 0);
  }

  function play(figure, stored) {
    const places = stored.controls.map(({ start }) => start);
    const source = (data) => `data:image/webp;base64,${data}`;
    const size = { width: stored.width, height: stored.height, decoding: "sync", alt: "" };
    const over = element("img", { ...size, className: "explorer-over" });
    const picture = element("div", { className: "explorer-picture" }, element("img", { ...size, src: source(stored.first) }), over);
    picture.setAttribute("role", "img");
    const reads = [];

    function show(moved) {
      if (stored.mode === "single") places.forEach((_, i) => { if (i !== moved) places[i] = stored.controls[i].start; });
      const number = frameOf(stored, places, moved);
      over.src = source(stored.frames[number]);
      picture.setAttribute("aria-label", stored.alts[number]);
      reads.forEach((read) => read());
    }

    const controls = stored.controls.map((control, i) => {
      const name = `explorer-${count++}`;
      if (control.choice) {
        const buttons = control.texts.map((text, place) => {
          const input = element("input", { type: "radio", name, onchange: () => { places[i] = place; show(i); } });
          reads.push(() => { input.checked = places[i] === place; });
          return element("label", {}, input, element("span", { textContent: text }));
        });
        return element("fieldset", { className: "explorer-choice" }, element("legend", { textContent: control.label }), ...buttons);
      }
      const input = element("input", { type: "range", id: name, min: 0, max: control.texts.length - 1, step: 1 });
      const output = element("output");
      output.setAttribute("for", name);
      input.addEventListener("input", () => { places[i] = Number(input.value); show(i); });
      reads.push(() => {
        input.value = places[i];
        output.textContent = control.texts[places[i]];
        input.setAttribute("aria-valuetext", control.texts[places[i]]);
      });
      return element("div", { className: "explorer-slider" }, element("label", { htmlFor: name, textContent: control.label }), input, output);
    });
    const note = element("p", { className: "explorer-note", textContent: MODES[stored.mode](stored.frames.length) });
    const sheet = element("details", {}, element("summary", { textContent: "Contact sheet" }), ...figure.childNodes);
    figure.replaceChildren(...controls, picture, element("p", { textContent: stored.caption }), note, sheet);
    show(0);
  }

  function fetchFrames(figure) {
    const { frames, folder } = figure.dataset;
    const script = element("script", { src: `${folder}/${frames}.js` });
    const fail = () => figure.append(element("p", { className: "explorer-note", textContent:
      "The pictures of this slider could not be loaded: look at your network, then load the page again. The contact sheet above shows some of them." }));
    script.onload = () => {
      const stored = globalThis.adalnFrames?.[frames];
      delete globalThis.adalnFrames?.[frames];
      if (stored) play(figure, stored);
      else fail();
    };
    script.onerror = fail;
    document.head.append(script);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const watcher = new IntersectionObserver((seen) => seen.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      watcher.unobserve(target);
      fetchFrames(target);
    }), { rootMargin: "800px" });
    document.querySelectorAll("[data-frames]").forEach((figure) => watcher.observe(figure));
  });
})();
