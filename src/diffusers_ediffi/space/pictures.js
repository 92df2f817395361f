// Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
// The pictures: `props.value` is {state, share, label, pictures: [{src, name, caption, alt}]}, where `src` is a data
// address and `state` is waiting, drawing, done, cancelled or failed. Nothing of it lies in a file on the server.
const find = (name) => element.querySelector(name);
const now = find(".now"), bar = find(".bar"), progress = find(".progress"), gallery = find(".gallery"), MAX_KEPT = 24;
const kept = [];

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
async function download(picture) {
  const blob = await (await fetch(picture.src)).blob(), link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = picture.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
function figures(pictures) {
  now.classList.toggle("several", pictures.length > 1);
  const shown = [...now.querySelectorAll("figure")];
  if (shown.length === pictures.length && !pictures[0]?.name) { // a preview: only the pixels change
    pictures.forEach((picture, i) => {
      const image = shown[i].querySelector("img");
      image.src = picture.src; image.alt = picture.alt || "";
      shown[i].querySelector("figcaption").replaceChildren(make("span", "", picture.caption || ""));
    });
    return;
  }
  now.replaceChildren(...pictures.map((picture) => {
    const figure = make("figure"), image = make("img"), caption = make("figcaption");
    image.src = picture.src; image.alt = picture.alt || "";
    caption.append(make("span", "", picture.caption || ""));
    if (picture.name) {
      const button = make("button", "get", "Download");
      button.type = "button";
      button.setAttribute("aria-label", `Download ${picture.name}`);
      button.addEventListener("click", () => download(picture));
      caption.append(button);
    }
    figure.append(image, caption);
    return figure;
  }));
}
function keep(pictures) {
  if (kept[0]?.querySelector("img").src === pictures.at(-1).src) return; // told twice
  for (const picture of pictures) {
    const thumb = make("button", "thumb"), image = make("img");
    image.src = picture.src; image.alt = "";
    thumb.type = "button"; thumb.append(image); thumb.title = picture.caption || "";
    thumb.setAttribute("aria-label", `Show again: ${picture.caption || "a picture"}`);
    thumb.addEventListener("click", () => figures([picture]));
    kept.unshift(thumb);
  }
  kept.splice(MAX_KEPT);
  gallery.replaceChildren(...kept);
  gallery.hidden = kept.length < 2;
}
function update(value) {
  if (!value) return;
  const busy = value.state === "waiting" || value.state === "drawing", percent = Math.round(100 * (value.share || 0));
  now.setAttribute("aria-busy", String(busy));
  element.querySelector(".ediffi-pictures").dataset.state = value.state || "";
  progress.hidden = !busy;
  progress.setAttribute("aria-valuenow", percent);
  bar.style.width = `${Math.max(3, percent)}%`;
  find(".state").textContent = value.label || "";
  if (value.pictures?.length) figures(value.pictures);
  if (value.state === "done") keep(value.pictures);
}
watch("value", () => update(props.value));
update(props.value);
