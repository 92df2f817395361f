// Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
// What happened inside: `props.value` is {picture, prompt, words: [{text, heat, masses}], sigmas, shares, stages: [{size,
// experts, steps: [{sigma, expert}]}]}, as inside_tab.py makes it; pictures are data addresses.
const find = (name) => element.querySelector(name);
const EXPERTS = ["#6366f1", "#db2777", "#f59e0b", "#10b981", "#0ea5e9", "#a855f7"];
const ENCODERS = { "CLIP text": "#6366f1", "T5": "#db2777", "CLIP image": "#f59e0b", "null token": "#7c8798" }, WORD = "#ea580c";
const SVG = "http://www.w3.org/2000/svg", HEIGHT = 230, LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 34;
let shown = {}, chosen = -1;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
function key(color, text) {
  const made = make("span", "key"), dot = make("span", "dot");
  dot.style.setProperty("--expert", color);
  made.append(dot, make("span", "", text));
  return made;
}
const short = (sigma) => Number(sigma.toPrecision(2)).toString();

// ---- where a word looked
function words() {
  find(".looked").hidden = !shown.words?.length;
  find(".words").replaceChildren(...(shown.words || []).map((word, i) => {
    const button = make("button", "word", word.text);
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === chosen));
    button.addEventListener("click", () => choose(i === chosen ? -1 : i));
    return button;
  }));
  find(".picture").src = shown.picture || "";
  find(".picture").alt = shown.prompt || "";
}
function choose(index) {
  chosen = index;
  const word = shown.words?.[index], heat = find(".heat");
  if (word) heat.src = word.heat; else heat.removeAttribute("src");
  heat.alt = word ? `Where “${word.text}” looked` : "";
  find(".frame").classList.toggle("hot", Boolean(word));
  find(".said").textContent = word ? `Orange: where the picture attended to “${word.text}” most, over all steps.` : "Click a word.";
  [...find(".words").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
  chart();
}

// ---- which expert drew when
function stages() {
  find(".of-stages").hidden = (shown.stages || []).length < 2;
  find(".stages").replaceChildren(...(shown.stages || []).map((stage) => {
    const row = make("div", "stage"), steps = make("div", "steps"), experts = make("div", "experts");
    const color = (step) => EXPERTS[step.expert % EXPERTS.length];
    steps.setAttribute("role", "img");
    steps.append(...stage.steps.map((step, i) => {
      const cell = make("span", "step");
      cell.style.setProperty("--expert", color(step));
      cell.title = `Step ${i + 1}: expert ${step.expert + 1}, sigma ${short(step.sigma ?? 0)}`;
      return cell;
    }));
    const said = [];
    for (let i = 0; i < stage.experts; i++) {
      const its = stage.steps.filter((step) => step.expert === i);
      if (!its.length) continue;
      const range = its.length > 1 ? `sigma ${short(its[0].sigma)} to ${short(its.at(-1).sigma)}` : `sigma ${short(its[0].sigma)}`;
      const text = stage.experts > 1 ? `Expert ${i + 1}: ${its.length} of ${stage.steps.length} steps, ${range}` : `One network: ${its.length} steps, ${range}`;
      said.push(text);
      experts.append(key(EXPERTS[i % EXPERTS.length], text));
    }
    steps.setAttribute("aria-label", said.join("; "));
    row.append(make("span", "name", `${stage.size} x ${stage.size}`), steps, experts);
    return row;
  }));
}

// ---- attention by noise level
function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text) made.textContent = text;
  return made;
}
function chart() {
  const sigmas = shown.sigmas || [];
  find(".levels").hidden = sigmas.length < 2;
  if (sigmas.length < 2) return;
  const WIDTH = Math.max(260, find(".chart").clientWidth || 560); // so that its text has the same size everywhere
  const high = Math.log(sigmas[0]), low = Math.log(sigmas.at(-1));
  const x = (sigma) => LEFT + (high - Math.log(sigma)) / (high - low) * (WIDTH - LEFT - RIGHT);
  const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }), legend = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(node("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }));
    svg.append(node("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}%`));
  }
  for (let power = Math.floor(high / Math.LN10); power >= low / Math.LN10; power--)
    svg.append(node("text", { x: x(10 ** power), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, short(10 ** power)));
  svg.append(node("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "sigma, from noise to picture"));
  const line = (values, color, more = "") => {
    const points = values.map((value, i) => value === null ? null : `${x(sigmas[i]).toFixed(1)},${y(value).toFixed(1)}`).filter(Boolean);
    svg.append(node("polyline", { class: `line ${more}`, points: points.join(" "), stroke: color }));
  };
  const said = [];
  for (const [name, values] of Object.entries(shown.shares || {})) {
    line(values, ENCODERS[name] || WORD);
    legend.push(key(ENCODERS[name] || WORD, name));
    said.push(`${name} from ${Math.round(100 * values[0])}% to ${Math.round(100 * values.at(-1))}%`);
  }
  const word = shown.words?.[chosen], most = word ? Math.max(...word.masses.filter((mass) => mass !== null)) : 0;
  if (most > 0) {
    line(word.masses.map((mass) => mass === null ? null : mass / most), WORD, "word-line");
    legend.push(key(WORD, `“${word.text}”, at most ${(100 * most).toFixed(1)}%`));
  }
  svg.setAttribute("aria-label", `Share of attention from noise to picture: ${said.join(", ")}.`);
  find(".chart").replaceChildren(svg);
  find(".legend").replaceChildren(...legend);
}
const DULL = new Set(["a", "an", "the", "of", "on", "in", "and", "at", "with", "to", "next", "left", "right", "above", "below"]);
function update(value) {
  if (!value?.picture) return;
  shown = value;
  find(".nothing").hidden = true;
  find(".found").hidden = false;
  chosen = (shown.words || []).findIndex((word) => !DULL.has(word.text.toLowerCase()));
  words();
  stages();
  choose(chosen);
}
let width = 0;
new ResizeObserver(([entry]) => {
  if (Math.abs(entry.contentRect.width - width) < 2) return;
  width = entry.contentRect.width;
  chart();
}).observe(find(".chart"));
watch("value", () => update(props.value));
update(props.value);
