// Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
// A picture to change, and a mask painted over it. `props.value` is {picture, mask}: data addresses, or null; a mask from
// the server may be a box (left, top, right, bottom) in [0, 1]. The picture is cut to a square and made smaller here.
const find = (name) => element.querySelector(name);
const SIDE = props.mask_size, MAX_PICTURE = props.picture_size, MAX_BYTES = props.upload_bytes, MAX_UNDO = 20;
const paper = find(".paper"), view = paper.getContext("2d"), board = find(".board"), slider = find(".brush-size");
const state = { picture: null, image: null, mask: blank(SIDE), painted: false, tool: "brush", undo: [], pointer: null, hover: null, box: null, sent: "" };
paper.width = paper.height = SIDE;

function blank(side) {
  const made = document.createElement("canvas");
  made.width = made.height = side;
  return made;
}
function say(text, bad = false) {
  const status = find(".status");
  status.textContent = text;
  status.classList.toggle("bad", bad);
}
function tell() {
  if (!state.image) return say("");
  say(state.painted ? "Only what you painted is drawn anew; the rest stays as it is."
    : "Nothing is painted: the whole picture is changed. Paint over a part to change that alone.");
}

// ---- what is sent, and what comes
function send() {
  const value = { picture: state.picture, mask: state.painted ? address(state.mask) : null };
  state.sent = JSON.stringify(value);
  props.value = value;
  tell();
}
function address(canvas) { // white on black: what the pipelines take
  const flat = blank(SIDE), context = flat.getContext("2d");
  context.fillRect(0, 0, SIDE, SIDE);
  context.drawImage(canvas, 0, 0);
  return flat.toDataURL("image/png");
}
async function load(value) {
  if (JSON.stringify(value) === state.sent) return;
  state.undo = [];
  state.mask = blank(SIDE);
  state.painted = false;
  state.picture = value?.picture || null;
  state.image = state.picture ? await imageOf(state.picture) : null;
  const context = state.mask.getContext("2d");
  context.fillStyle = "#fff";
  if (Array.isArray(value?.mask)) {
    const [left, top, right, bottom] = value.mask.map((edge) => edge * SIDE);
    context.fillRect(left, top, right - left, bottom - top);
  } else if (value?.mask) {
    context.drawImage(await imageOf(value.mask), 0, 0, SIDE, SIDE);
    transparent(state.mask);
  }
  state.painted = anything();
  show();
  send();
}
async function imageOf(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}
function transparent(canvas) { // black of a mask that was sent is unpainted
  const context = canvas.getContext("2d"), data = context.getImageData(0, 0, SIDE, SIDE);
  for (let i = 0; i < data.data.length; i += 4) { data.data[i + 3] = data.data[i]; data.data[i] = data.data[i + 1] = data.data[i + 2] = 255; }
  context.putImageData(data, 0, 0);
}
function anything() {
  const data = state.mask.getContext("2d").getImageData(0, 0, SIDE, SIDE).data;
  for (let i = 3; i < data.length; i += 4) if (data[i] > 8) return true;
  return false;
}

// ---- the picture
async function open(file) {
  if (!file) return;
  if (file.size > MAX_BYTES) return say(`The file is larger than ${MAX_BYTES >> 20} MB; make it smaller.`, true);
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { return say("This file is no picture that can be read here: choose a PNG, JPEG or WebP.", true); }
  const cut = Math.min(bitmap.width, bitmap.height), side = Math.min(cut, MAX_PICTURE), square = blank(side), context = square.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (bitmap.width - cut) / 2, (bitmap.height - cut) / 2, cut, cut, 0, 0, side, side);
  const isSquare = bitmap.width === bitmap.height;
  bitmap.close();
  await load({ picture: square.toDataURL("image/png"), mask: null });
  if (!isSquare) say("The picture is cut to a square around its middle. Paint over a part to change that alone.");
}
find(".file").addEventListener("change", (event) => { open(event.target.files[0]); event.target.value = ""; });
for (const name of ["dragover", "dragleave", "drop"])
  board.addEventListener(name, (event) => {
    event.preventDefault();
    board.classList.toggle("over", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });

// ---- painting
const radius = () => Number(slider.value) / 2;
function at(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
}
function remember() {
  const copy = blank(SIDE);
  copy.getContext("2d").drawImage(state.mask, 0, 0);
  state.undo.push(copy);
  state.undo.splice(0, state.undo.length - MAX_UNDO);
}
function stroke(from, to) {
  const context = state.mask.getContext("2d");
  context.globalCompositeOperation = state.tool === "eraser" ? "destination-out" : "source-over";
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * radius();
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(to[0] + 0.01, to[1]);
  context.stroke();
}
function done() {
  state.painted = anything();
  show();
  send();
}
function undo() {
  if (!state.undo.length) return;
  state.mask = state.undo.pop();
  done();
}
paper.addEventListener("pointerdown", (event) => {
  if (event.button || state.pointer !== null) return;
  if (!state.image) return say("Choose a picture first.", true);
  event.preventDefault();
  paper.focus({ preventScroll: true });
  paper.setPointerCapture(event.pointerId);
  state.box = null;
  remember();
  state.pointer = { id: event.pointerId, last: at(event) };
  stroke(state.pointer.last, state.pointer.last);
  show();
});
paper.addEventListener("pointermove", (event) => {
  state.hover = at(event);
  if (state.pointer && event.pointerId === state.pointer.id)
    for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const point = at(part);
      stroke(state.pointer.last, point);
      state.pointer.last = point;
    }
  show();
});
function release(event) {
  if (!state.pointer || event.pointerId !== state.pointer.id) return;
  state.pointer = null;
  done();
}
paper.addEventListener("pointerup", release);
paper.addEventListener("pointercancel", release);
paper.addEventListener("pointerleave", () => { state.hover = null; show(); });
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
paper.addEventListener("keydown", (event) => {
  if (!state.image) return;
  const move = MOVES[event.key];
  if (move) {
    event.preventDefault();
    state.box ??= [SIDE / 4, SIDE / 4, SIDE / 2, SIDE / 2];
    const first = event.shiftKey ? 2 : 0;
    for (const i of [0, 1]) state.box[first + i] = Math.min(SIDE, Math.max(first ? 16 : 0, state.box[first + i] + 16 * move[i]));
  } else if (event.key === "Enter" && state.box) {
    event.preventDefault();
    remember();
    const context = state.mask.getContext("2d");
    context.globalCompositeOperation = state.tool === "eraser" ? "destination-out" : "source-over";
    context.fillStyle = "#fff";
    context.fillRect(...state.box);
    return done();
  }
  show();
});
element.addEventListener("keydown", (event) => {
  if (event.target.matches("input")) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); undo(); }
  else if (key === "b" || key === "e") pick(key === "b" ? "brush" : "eraser");
});
function pick(tool) {
  state.tool = tool;
  for (const button of element.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
}
for (const button of element.querySelectorAll("[data-tool]")) button.addEventListener("click", () => pick(button.dataset.tool));
find("[data-act=undo]").addEventListener("click", undo);
find("[data-act=clear]").addEventListener("click", () => { if (state.painted) { remember(); state.mask = blank(SIDE); done(); } });
slider.addEventListener("input", show);

// ---- what is seen
const tint = blank(SIDE);
function show() {
  find(".empty").hidden = Boolean(state.image);
  view.clearRect(0, 0, SIDE, SIDE);
  if (state.image) view.drawImage(state.image, 0, 0, SIDE, SIDE);
  const context = tint.getContext("2d");
  context.globalCompositeOperation = "copy";
  context.drawImage(state.mask, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#e11d74";
  context.fillRect(0, 0, SIDE, SIDE);
  view.globalAlpha = 0.55;
  view.drawImage(tint, 0, 0);
  view.globalAlpha = 1;
  view.lineWidth = 2;
  if (state.box) { view.strokeStyle = "#fff"; view.strokeRect(...state.box); view.strokeStyle = "#4338ca"; view.setLineDash([8, 6]); view.strokeRect(...state.box); view.setLineDash([]); }
  if (state.hover && state.image) {
    view.beginPath();
    view.arc(...state.hover, radius(), 0, 2 * Math.PI);
    view.strokeStyle = "#fff"; view.stroke();
    view.strokeStyle = "#1e1b4b"; view.lineWidth = 1; view.stroke();
  }
}
pick("brush");
watch("value", () => load(props.value).catch(() => say("The picture cannot be shown.", true)));
load(props.value).catch(() => say("The picture cannot be shown.", true));
