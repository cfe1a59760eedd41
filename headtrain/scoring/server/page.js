"use strict";
// Texts enter the page as textContent only, so that nothing in them is read as HTML.

const at = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function renumber() {
  [...at("candidates").children].forEach((one, place) => {
    one.querySelector("label").textContent = `Candidate ${place + 1}`;
    one.querySelector("button").hidden = at("candidates").children.length === 1;
  });
}

let made = 0;
function addCandidate() {
  const box = element("div");
  const head = element("div", undefined, "head");
  const label = element("label");
  const remove = element("button", "Remove", "small");
  const area = element("textarea");
  area.id = `candidate-${made++}`;
  area.rows = 5;
  area.required = true;
  area.spellcheck = false;
  label.htmlFor = area.id;
  remove.type = "button";
  remove.addEventListener("click", () => { box.remove(); renumber(); });
  head.append(label, remove);
  box.append(head, area);
  at("candidates").append(box);
  renumber();
  return area;
}

function say(text, isWrong) {
  at("message").textContent = text;
  at("message").className = isWrong ? "wrong" : "";
}

function number(name, value, digits) {
  const shown = element("span", `${name} `);
  shown.append(element("b", value === null ? "-" : value.toFixed(digits)));
  return shown;
}

// A token may hold a line break and the indentation after it, which is shown with the next line.
function toLines(texts) {
  let carried = "";
  return texts.map((text, place) => {
    const whole = carried + text;
    const end = whole.lastIndexOf("\n");
    const isIndented = end >= 0 && place < texts.length - 1 && !whole.slice(end + 1).trim();
    carried = isIndented ? whole.slice(end + 1) : "";
    return isIndented ? whole.slice(0, end) : whole.replace(/\n$/, "");
  });
}

// Values of all candidates share one scale, so that colours compare between them.
function heatMap(along, lowest, highest, place) {
  const table = element("table", undefined, "heat");
  table.append(element("caption", `Values of candidate ${place + 1} after each line`));
  const body = element("tbody");
  toLines(along.texts).forEach((text, line) => {
    const value = along.values[line];
    const share = highest > lowest ? (value - lowest) / (highest - lowest) : 0.5;
    const row = element("tr", undefined, share < 0.5 ? "low" : "high");
    row.style.setProperty("--heat", Math.abs(2 * share - 1).toFixed(3));
    row.append(element("td", value.toFixed(3)), element("td", text));
    body.append(row);
  });
  table.append(body);
  const box = element("div", undefined, "scroll");
  box.append(table);
  return box;
}

function show(outputs, reply) {
  const values = (reply.along ?? []).flatMap((one) => one?.values ?? []);
  const lowest = values.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const order = outputs.map((_, place) => place);
  const rank = (place) => reply.ranks[place] ?? Infinity;
  order.sort((a, b) => rank(a) - rank(b) || a - b);
  at("results").replaceChildren(...order.map((place) => {
    const item = element("li");
    const error = reply.errors?.[place];
    const numbers = element("p", undefined, "numbers");
    numbers.append(element("strong", `Candidate ${place + 1}`));
    if (error) {
      numbers.append(element("span", error, "wrong"));
    } else {
      numbers.append(
        number("rank", reply.ranks[place], 0),
        number("value", reply.values[place], 4),
        number("probability", reply.probabilities[place], 3),
      );
      if (reply.spread[place] !== null) numbers.append(number("spread", reply.spread[place], 4));
      if (reply.truncated[place]) numbers.append(element("span", "too long, cut", "wrong"));
    }
    item.append(numbers);
    if (!error && reply.probabilities[place] !== null) {
      const bar = element("progress");
      bar.max = 1;
      bar.value = reply.probabilities[place];
      bar.setAttribute("aria-label", `Probability of candidate ${place + 1}`);
      item.append(bar);
    }
    const along = reply.along?.[place];
    item.append(
      along ? heatMap(along, lowest, highest, place) : element("pre", outputs[place]));
    return item;
  }));
}

async function ask(body) {
  const headers = { "Content-Type": "application/json" };
  if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
  const response = await fetch("score", { method: "POST", headers, body: JSON.stringify(body) });
  return { status: response.status, isGood: response.ok, reply: await response.json() };
}

async function score(event) {
  event.preventDefault();
  const outputs = [...at("candidates").querySelectorAll("textarea")].map((area) => area.value);
  at("score").disabled = true;
  say("Scoring ...");
  try {
    const body = { prompt: at("prompt").value, outputs };
    let answer = await ask({ ...body, along: "lines" });
    let note = "";
    if (answer.status === 422) {  // some heads have no values along a solution
      note = answer.reply.error;
      answer = await ask(body);
    }
    if (!answer.isGood) throw new Error(answer.reply.error);
    at("model").textContent = answer.reply.model;
    show(outputs, answer.reply);
    say(note);
  } catch (error) {
    say(error.message, true);
  } finally {
    at("score").disabled = false;
  }
}

at("add").addEventListener("click", () => addCandidate().focus());
at("form").addEventListener("submit", score);
addCandidate();
addCandidate();
