/* Questions to click, with the replies of the notebook. What was chosen stays in this browser. */
"use strict";

(() => {
  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const memory = {
    get(name) {
      try {
        return JSON.parse(localStorage.getItem(name));
      } catch {
        return null; // storage is blocked, or holds something else
      }
    },
    set(name, value) {
      try {
        if (value === null) localStorage.removeItem(name);
        else localStorage.setItem(name, JSON.stringify(value));
        return true;
      } catch {
        return false;
      }
    },
  };

  /** What a notebook says after a choice: [lines, lines on the other options]. See Card._feedback in the package. */
  function feedback({ options, answer, several }, pick) {
    const said = `You said: ${pick.map((i) => options[i].option).join("; ") || "none"}.`;
    if (several) {
      const hits = options.filter((_, i) => pick.includes(i) === answer.includes(i)).length;
      const verdict = hits === options.length ? "All judged right." : `${hits} of ${options.length} judged right.`;
      const marks = options.map(({ option, reply }, i) =>
        `[${i}] ${option}: ${answer.includes(i) ? "supported" : "not supported"}. ${reply}`);
      return [[`${said} ${verdict}`, ...marks], []];
    }
    const [mine] = pick, [right] = answer;
    const lines = mine === right
      ? [`${said} Right. ${options[mine].reply}`]
      : [`${said} Not this one. ${options[mine].reply}`, `It is [${right}] ${options[right].option}. ${options[right].reply}`];
    const others = options.map(({ option, reply }, i) => ({ i, text: `[${i}] ${option}: ${reply}`, reply }))
      .filter(({ i, reply }) => i !== mine && i !== right && reply).map(({ text }) => text);
    return [lines, others];
  }

  function play(holder, number) {
    const card = JSON.parse(holder.dataset.card);
    const { title, question, options, several } = card, page = location.pathname.split("/").pop();
    const name = `adaln-card: ${page}: ${question}`; // another page may ask it again
    const status = element("div", { className: "card-reply" });
    status.setAttribute("role", "status");
    const id = `card-${number}`;
    let isDone = false;
    const buttons = options.map(({ option }) => several
      ? element("input", { type: "checkbox" })
      : element("button", { type: "button", textContent: option }));
    const choices = several
      ? options.map(({ option }, i) => element("label", {}, buttons[i], ` ${option}`))
      : buttons;
    const commit = several ? [element("button", { type: "button", textContent: "Commit" })] : [];
    const isPick = (pick) => Array.isArray(pick) && pick.every((i) => i in options) && (several || pick.length === 1);

    function ask() {
      isDone = false;
      buttons.forEach((button, i) => {
        button.disabled = false;
        if (several) button.checked = false;
        else button.textContent = options[i].option;
      });
      commit.forEach((button) => { button.disabled = false; });
      status.replaceChildren(`Commit before you read on: ${several ? "tick all that are right, then commit" : "choose one"}.`);
    }

    function reply(pick, isKept = true) {
      isDone = true;
      const [lines, others] = feedback(card, pick);
      buttons.forEach((button, i) => {
        button.disabled = several || !pick.includes(i); // a chosen button keeps the focus
        if (several) button.checked = pick.includes(i);
        else if (pick.includes(i)) button.textContent = `\u2192 ${options[i].option} (your guess)`;
      });
      commit.forEach((button) => { button.disabled = true; });
      const again = element("button", { type: "button", className: "card-again", textContent: "ask again", onclick: () => {
        memory.set(name, null);
        ask();
        buttons[0].focus();
      } });
      const rest = element("details", {}, element("summary", { textContent: "The other options" }),
        ...others.map((text) => element("p", { textContent: text })));
      const forgets = element("p", { textContent: "This browser keeps nothing for this page: your answer is forgotten when you leave." });
      status.replaceChildren(...lines.map((text) => element("p", { textContent: text })),
        ...(others.length ? [rest] : []), ...(isKept ? [] : [forgets]), again);
    }

    const choose = (pick) => { if (!isDone) reply(pick, memory.set(name, pick)); };
    if (!several) buttons.forEach((button, i) => button.addEventListener("click", () => choose([i])));
    commit.forEach((button) => button.addEventListener("click", () => choose([...options.keys()].filter((i) => buttons[i].checked))));

    holder.replaceChildren(element("p", { id, textContent: `${title}: ${question}` }), ...choices, ...commit, status);
    holder.setAttribute("role", "group");
    holder.setAttribute("aria-labelledby", id);
    const kept = memory.get(name);
    if (isPick(kept)) reply(kept);
    else ask();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("[data-card]").forEach(play));
})();
