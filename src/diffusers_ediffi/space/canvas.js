// Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
// The canvas: words of a prompt become phrases, and each phrase a layer that is painted. Gradio calls this as a function
// of `element`, `props`, `watch` and `trigger`; `props.value` is {prompt, layers: [{phrase, occurrence, color, visible,
// weight, mask}]}, whose masks are PNG data addresses, white and opaque where the phrase goes.
const find = (name) => element.querySelector(name);
const COLORS = ["#ffb224", "#5eb1ef", "#e9687a", "#65ba74", "#b67ee0", "#3db9cf", "#f58b54", "#a6b727", "#ee7ac4", "#8da4ef", "#c7a17a", "#9ba1a6"];
const SIDE = props.mask_size || 512, MAX_UNDO = 30, KEY = "ediffi-scene";
const paper = find(".paper"), view = paper.getContext("2d"), area = find(".prompt"), words = find(".words");
const state = { prompt: "", layers: [], active: -1, tool: "brush", undo: [], box: null, pointer: null, sent: "" };
paper.width = paper.height = SIDE;

// ---- words and phrases
function wordsOf(text) {
  return [...text.matchAll(/\S+/gu)].map((match) => ({ text: match[0], start: match.index, stop: match.index + match[0].length }));
}
const EDGE = /^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu;
const plain = (text) => text.replace(EDGE, "").replace(/\s+/gu, " ").toLowerCase();
function phraseOf(list, first, last) {
  return state.prompt.slice(list[first].start, list[last].stop).replace(EDGE, "").replace(/\s+/gu, " ");
}
function placesOf(phrase, list) {
  const count = phrase.trim().split(/\s+/u).length, wanted = plain(phrase), places = [];
  for (let first = 0; wanted && first + count <= list.length; first++)
    if (plain(state.prompt.slice(list[first].start, list[first + count - 1].stop)) === wanted) places.push([first, first + count - 1]);
  return places;
}
function placeOf(layer, list) {
  const places = placesOf(layer.phrase, list);
  return places[layer.occurrence ?? 0] || null;
}
function choose(first, last) {
  const list = wordsOf(state.prompt), phrase = phraseOf(list, first, last);
  if (!phrase) return say("Choose a word with letters.", true);
  const same = (layer) => { const at = placeOf(layer, list); return at && at[0] === first && at[1] === last; };
  const inside = (layer) => { const at = placeOf(layer, list); return at && first === last && at[0] <= first && last <= at[1]; };
  let index = state.layers.findIndex(same);
  if (index < 0) index = state.layers.findIndex(inside);
  if (index < 0) {
    if (state.layers.length >= props.max_phrases) return say(`At most ${props.max_phrases} phrases: remove one first.`, true);
    remember();
    const places = placesOf(phrase, list), number = places.findIndex(([start]) => start === first);
    const color = COLORS.find((c) => !state.layers.some((layer) => layer.color === c)) || COLORS[0];
    index = state.layers.push({ phrase, occurrence: places.length > 1 ? number : null, color, visible: true, weight: 1, bitmap: blank(), mask: null }) - 1;
  }
  activate(index);
  send();
}
function activate(index) {
  state.active = index;
  if (state.layers[index]) say(`Paint where “${state.layers[index].phrase}” goes.`);
  show();
}

// ---- layers
function blank() {
  const bitmap = document.createElement("canvas");
  bitmap.width = bitmap.height = SIDE;
  return bitmap;
}
function copy(bitmap) {
  const other = blank();
  other.getContext("2d").drawImage(bitmap, 0, 0);
  return other;
}
function remember() {
  state.undo.push({ layers: state.layers.map((layer) => ({ ...layer })), active: state.active });
  if (state.undo.length > MAX_UNDO) state.undo.shift();
}
function undo() {
  const before = state.undo.pop();
  if (!before) return say("There is nothing to undo.");
  Object.assign(state, { layers: before.layers, active: before.active });
  say("Undone.");
  send();
}
function clearAll() {
  if (!state.layers.some((layer) => layer.mask)) return say("Nothing is painted yet.");
  remember();
  for (const layer of state.layers) Object.assign(layer, { bitmap: blank(), mask: null });
  say("All is cleared; Undo brings it back.");
  send();
}
function removeLayer(index) {
  remember();
  const [gone] = state.layers.splice(index, 1);
  state.active = Math.min(state.active, state.layers.length - 1);
  say(`“${gone.phrase}” is removed; Undo brings it back.`);
  send();
}
function measure(layer) { // where its label goes, and whether anything is painted at all
  const small = document.createElement("canvas"), side = 64;
  small.width = small.height = side;
  const context = small.getContext("2d");
  context.drawImage(layer.bitmap, 0, 0, side, side);
  const data = context.getImageData(0, 0, side, side).data;
  let total = 0, x = 0, y = 0;
  for (let i = 0; i < side * side; i++) { const a = data[4 * i + 3]; total += a; x += a * (i % side); y += a * Math.floor(i / side); }
  layer.centre = total ? [(x / total + 0.5) * SIDE / side, (y / total + 0.5) * SIDE / side] : null;
  layer.mask = total ? layer.bitmap.toDataURL("image/png") : null;
}

// ---- painting
function layerToPaint() {
  const layer = state.layers[state.active];
  if (!layer) { say("Choose a word above first: it says what you paint.", true); words.querySelector("button")?.focus(); return null; }
  if (!layer.visible) { layer.visible = true; }
  return layer;
}
function begin(layer) { remember(); layer.bitmap = copy(layer.bitmap); return layer.bitmap.getContext("2d"); }
function at(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
}
const brushSize = () => Number(find(".brush-size").value) * SIDE / 512;
function stroke(context, [x0, y0], [x1, y1]) {
  const size = brushSize();
  context.globalCompositeOperation = state.tool === "eraser" ? "destination-out" : "source-over";
  if (!find(".brush-soft").checked) {
    Object.assign(context, { lineCap: "round", lineWidth: size, strokeStyle: "#fff" });
    context.beginPath(); context.moveTo(x0, y0); context.lineTo(x1 + 0.01, y1); context.stroke();
    return;
  }
  const count = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / (size / 8)));
  for (let i = 1; i <= count; i++) {
    const x = x0 + (x1 - x0) * i / count, y = y0 + (y1 - y0) * i / count;
    const edge = context.createRadialGradient(x, y, size / 8, x, y, size / 2);
    edge.addColorStop(0, "rgba(255,255,255,0.5)"); edge.addColorStop(1, "rgba(255,255,255,0)");
    context.fillStyle = edge;
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }
}
function fillBox([left, top, right, bottom], layer) {
  const context = begin(layer);
  context.globalCompositeOperation = state.tool === "eraser" ? "destination-out" : "source-over";
  context.fillStyle = "#fff";
  context.fillRect(left, top, right - left, bottom - top);
}
function flood(layer, [x, y]) { // the unpainted area around a point, up to what is painted
  const context = begin(layer), image = context.getImageData(0, 0, SIDE, SIDE), data = image.data;
  const start = Math.floor(y) * SIDE + Math.floor(x), todo = [start];
  while (todo.length) {
    const i = todo.pop();
    if (data[4 * i + 3] >= 128) continue;
    data.fill(255, 4 * i, 4 * i + 4);
    const column = i % SIDE;
    if (column > 0) todo.push(i - 1);
    if (column < SIDE - 1) todo.push(i + 1);
    if (i >= SIDE) todo.push(i - SIDE);
    if (i < SIDE * (SIDE - 1)) todo.push(i + SIDE);
  }
  context.putImageData(image, 0, 0);
}
function done(layer) { measure(layer); say(`“${layer.phrase}” is painted.`); send(); }

paper.addEventListener("pointerdown", (event) => {
  if (event.button || state.pointer) return;
  const layer = layerToPaint();
  if (!layer) return;
  event.preventDefault();
  paper.focus({ preventScroll: true });
  paper.setPointerCapture(event.pointerId);
  state.box = null;
  const point = at(event);
  if (state.tool === "fill") { flood(layer, point); return done(layer); }
  state.pointer = { id: event.pointerId, layer, first: point, last: point, context: null };
  if (state.tool === "box") return;
  state.pointer.context = begin(layer);
  stroke(state.pointer.context, point, point);
  draw();
});
paper.addEventListener("pointermove", (event) => {
  state.hover = at(event);
  const pointer = state.pointer;
  if (pointer && event.pointerId === pointer.id)
    for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const point = at(part);
      if (pointer.context) stroke(pointer.context, pointer.last, point);
      pointer.last = point;
    }
  draw();
});
function release(event) {
  const pointer = state.pointer;
  if (!pointer || event.pointerId !== pointer.id) return;
  state.pointer = null;
  if (!pointer.context) {
    const box = boxOf(pointer.first, pointer.last);
    if (box[2] - box[0] < 4 || box[3] - box[1] < 4) { say("Drag to draw a box."); return draw(); }
    fillBox(box, pointer.layer);
  }
  done(pointer.layer);
}
paper.addEventListener("pointerup", release);
paper.addEventListener("pointercancel", release);
paper.addEventListener("pointerleave", () => { state.hover = null; draw(); });
function boxOf([x0, y0], [x1, y1]) {
  const clip = (value) => Math.min(SIDE, Math.max(0, value));
  return [clip(Math.min(x0, x1)), clip(Math.min(y0, y1)), clip(Math.max(x0, x1)), clip(Math.max(y0, y1))];
}

// ---- the keyboard: arrows move a box, Shift and arrows size it, Enter paints it
paper.addEventListener("keydown", (event) => {
  const step = SIDE / 32, move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (move) {
    event.preventDefault();
    const box = state.box || [SIDE / 4, SIDE / 4, 3 * SIDE / 4, 3 * SIDE / 4];
    if (state.box) {
      const dx = move[0] * step, dy = move[1] * step;
      const [l, t, r, b] = event.shiftKey ? [box[0], box[1], box[2] + dx, box[3] + dy] : [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
      if (l >= 0 && t >= 0 && r <= SIDE && b <= SIDE && r - l >= step && b - t >= step) state.box = [l, t, r, b];
    } else state.box = box;
    const percent = state.box.map((value) => Math.round(100 * value / SIDE));
    say(`Box from ${percent[0]}, ${percent[1]} to ${percent[2]}, ${percent[3]} percent. Enter paints it.`);
    draw();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    if (!state.box) return say("Arrow keys place a box first.");
    const layer = layerToPaint();
    if (layer) { fillBox(state.box, layer); state.box = null; done(layer); }
  } else if (event.key === "Escape") { state.box = null; draw(); }
});
element.addEventListener("keydown", (event) => {
  if (event.target === area) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") { event.preventDefault(); return undo(); }
  const tool = { b: "brush", e: "eraser", f: "fill", x: "box" }[event.key.toLowerCase()];
  if (tool && !event.ctrlKey && !event.metaKey && !event.altKey) pickTool(tool);
});
function pickTool(tool) { state.tool = tool; say(`Tool: ${tool}.`); show(); }
for (const button of element.querySelectorAll("[data-tool]")) button.addEventListener("click", () => pickTool(button.dataset.tool));
find("[data-act=undo]").addEventListener("click", undo);
find("[data-act=clear]").addEventListener("click", clearAll);

// ---- chips: a click, a drag over several, or Shift with either end
let drag = null, anchor = null;
const indexOf = (event) => { const chip = document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".word"); return chip && words.contains(chip) ? Number(chip.dataset.index) : null; };
function mark() {
  for (const chip of words.children) {
    const i = Number(chip.dataset.index);
    chip.classList.toggle("picked", drag !== null && i >= Math.min(drag.first, drag.last) && i <= Math.max(drag.first, drag.last));
  }
}
words.addEventListener("pointerdown", (event) => {
  const index = indexOf(event);
  if (index === null || event.button) return;
  drag = { first: event.shiftKey && anchor !== null ? anchor : index, last: index };
  words.setPointerCapture(event.pointerId);
  mark();
});
words.addEventListener("pointermove", (event) => {
  const index = drag && indexOf(event);
  if (index !== null && drag) { drag.last = index; mark(); }
});
words.addEventListener("pointerup", () => {
  if (!drag) return;
  const { first, last } = drag;
  drag = null;
  anchor = first;
  choose(Math.min(first, last), Math.max(first, last));
});
words.addEventListener("pointercancel", () => { drag = null; mark(); });
words.addEventListener("click", (event) => { // of the keyboard alone: pointers have chosen already
  if (event.detail) return;
  const index = Number(event.target.closest(".word")?.dataset.index ?? -1);
  if (index < 0) return;
  const first = event.shiftKey && anchor !== null ? anchor : index;
  if (!event.shiftKey) anchor = index;
  choose(Math.min(first, index), Math.max(first, index));
  words.children[index]?.focus();
});
words.addEventListener("keydown", (event) => { // Shift+Enter is a click without `shiftKey` in some browsers
  const index = Number(event.target.closest(".word")?.dataset.index ?? -1);
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { event.preventDefault(); words.children[index + step]?.focus(); }
  if (event.key === "Enter" && event.shiftKey && anchor !== null) { event.preventDefault(); choose(Math.min(anchor, index), Math.max(anchor, index)); words.children[index]?.focus(); }
});
area.addEventListener("input", () => { state.prompt = area.value; send(); });
area.maxLength = props.max_prompt || 500;

// ---- what is seen
function say(text, isBad = false) {
  const status = find(".status");
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}
function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
function showWords() {
  const list = wordsOf(state.prompt), places = state.layers.map((layer) => placeOf(layer, list));
  const chips = list.map((word, i) => {
    const chip = make("button", "word", word.text);
    chip.type = "button";
    chip.dataset.index = i;
    let owner = -1;
    places.forEach((place, k) => { if (place && place[0] <= i && i <= place[1] && (owner < 0 || k === state.active)) owner = k; });
    chip.setAttribute("aria-pressed", String(owner >= 0));
    if (owner >= 0) {
      chip.classList.add("of-phrase");
      chip.classList.toggle("of-active", owner === state.active);
      chip.style.setProperty("--phrase", state.layers[owner].color);
    }
    return chip;
  });
  words.replaceChildren(...chips);
}
const EYE = "M2 12c4-8 16-8 20 0-4 8-16 8-20 0zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z", SHUT = EYE + "M4 20 20 4", BIN = "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13";
function iconButton(path, label, act) {
  const button = make("button"), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  line.setAttribute("d", path);
  svg.append(line);
  Object.assign(button, { type: "button", title: label });
  button.setAttribute("aria-label", label);
  button.append(svg);
  button.addEventListener("click", act);
  return button;
}
function showLayers() {
  const list = wordsOf(state.prompt);
  find(".layers").replaceChildren(...state.layers.map((layer, i) => {
    const row = make("li", "layer"), name = make("button", "name"), isLost = !placeOf(layer, list);
    row.style.setProperty("--phrase", layer.color);
    row.classList.toggle("active", i === state.active);
    row.classList.toggle("lost", isLost);
    name.type = "button";
    name.title = layer.color;
    name.setAttribute("aria-pressed", String(i === state.active));
    name.append(make("span", "swatch"), make("span", "", layer.phrase));
    const note = isLost ? "not in the prompt any more" : layer.visible ? layer.mask ? "" : "not painted yet" : "left out";
    if (note) name.append(make("span", "note", note));
    name.addEventListener("click", () => activate(i));
    const eye = iconButton(layer.visible ? EYE : SHUT, `${layer.visible ? "Leave out" : "Take in"} ${layer.phrase}`, () => { remember(); layer.visible = !layer.visible; send(); });
    row.append(name, eye, iconButton(BIN, `Remove ${layer.phrase}`, () => removeLayer(i)));
    return row;
  }));
}
const scratch = blank(), tint = scratch.getContext("2d");
let frame = 0;
function draw() { if (!frame) frame = requestAnimationFrame(paint); }
function paint() {
  frame = 0;
  view.clearRect(0, 0, SIDE, SIDE);
  state.layers.forEach((layer, i) => {
    if (!layer.visible) return;
    tint.globalCompositeOperation = "copy"; tint.drawImage(layer.bitmap, 0, 0);
    tint.globalCompositeOperation = "source-in"; tint.fillStyle = layer.color; tint.fillRect(0, 0, SIDE, SIDE);
    view.globalAlpha = i === state.active ? 0.92 : 0.72;
    view.drawImage(scratch, 0, 0);
  });
  view.globalAlpha = 1;
  Object.assign(view, { font: "600 20px system-ui, sans-serif", textAlign: "center", textBaseline: "middle", lineJoin: "round" });
  for (const layer of state.layers) if (layer.visible && layer.centre) label(layer);
  if (state.box) frameOf(state.box);
  const pointer = state.pointer;
  if (pointer && !pointer.context) frameOf(boxOf(pointer.first, pointer.last));
  if (state.hover && ["brush", "eraser"].includes(state.tool)) {
    view.beginPath(); view.arc(...state.hover, brushSize() / 2, 0, 7); view.lineWidth = 1.5; view.strokeStyle = "#333a"; view.stroke();
  }
}
function label(layer) {
  const half = Math.min(SIDE / 2, view.measureText(layer.phrase).width / 2 + 6);
  const x = Math.min(SIDE - half, Math.max(half, layer.centre[0])), y = Math.min(SIDE - 16, Math.max(16, layer.centre[1]));
  view.lineWidth = 5; view.strokeStyle = "#ffffffd0"; view.strokeText(layer.phrase, x, y);
  view.fillStyle = "#10131a"; view.fillText(layer.phrase, x, y);
}
function frameOf([left, top, right, bottom]) {
  view.lineWidth = 3; view.strokeStyle = state.layers[state.active]?.color || "#444";
  view.strokeRect(left, top, right - left, bottom - top);
  view.lineWidth = 1.5; view.setLineDash([6, 5]); view.strokeStyle = "#10131a";
  view.strokeRect(left, top, right - left, bottom - top); view.setLineDash([]);
}
function show() {
  if (area.value !== state.prompt) area.value = state.prompt;
  for (const button of element.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  find(".empty").hidden = state.layers.some((layer) => layer.mask) || Boolean(state.pointer);
  showWords();
  showLayers();
  draw();
}

// ---- what Python reads and writes
function send() {
  const layers = state.layers.map(({ phrase, occurrence, color, visible, weight, mask }) => ({ phrase, occurrence, color, visible, weight, mask }));
  const value = { prompt: state.prompt, layers };
  state.sent = JSON.stringify(value);
  props.value = value;
  try { sessionStorage.setItem(KEY, state.sent); } catch { /* full, or forbidden: the scene is lost on reload */ }
  show();
}
async function bitmapOf(layer) {
  const bitmap = blank(), context = bitmap.getContext("2d");
  context.fillStyle = "#fff";
  if (Array.isArray(layer.mask)) {
    const [left, top, right, bottom] = layer.mask.map((edge) => edge * SIDE);
    context.fillRect(left, top, right - left, bottom - top);
  } else if (layer.mask) {
    const image = new Image();
    image.src = layer.mask;
    await image.decode();
    context.drawImage(image, 0, 0, SIDE, SIDE);
    const pixels = context.getImageData(0, 0, SIDE, SIDE), data = pixels.data;
    for (let i = 0; i < data.length; i += 4) {
      const light = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / 255;
      data[i + 3] = Math.round(data[i + 3] * light);
      data[i] = data[i + 1] = data[i + 2] = 255;
    }
    context.putImageData(pixels, 0, 0);
  }
  return bitmap;
}
async function load(value) {
  if (!value || JSON.stringify(value) === state.sent) return;
  const layers = [];
  for (const [i, layer] of (value.layers || []).entries()) {
    const made = { occurrence: null, visible: true, weight: 1, color: COLORS[i % COLORS.length], ...layer, bitmap: await bitmapOf(layer) };
    measure(made);
    layers.push(made);
  }
  if (state.layers.length) remember();
  Object.assign(state, { prompt: value.prompt || "", layers, active: layers.length ? 0 : -1, box: null });
  send();
}
watch("value", () => load(props.value).catch(() => say("The scene cannot be shown.", true)));
let kept = null;
try { kept = JSON.parse(sessionStorage.getItem(KEY)); } catch { /* nothing is kept */ }
load(kept || props.value).catch(() => load(props.value)).finally(show);
find(".brush-size").addEventListener("input", draw);
