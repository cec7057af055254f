// The results, each in its own aspect ratio, in rows of one height.

import { byId, grouped, make } from "./elements.js";

export function show(samples, index, open) {
  const suffix = index ? `?index=${encodeURIComponent(index)}` : "";
  byId("gallery").replaceChildren(...samples.map((sample, place) => tile(sample, suffix, () => open(place))));
  if (!samples.length) byId("gallery").append(make("li", { className: "empty", textContent: "Nothing found. Other words, or fewer filters, may find more." }));
}

function tile(sample, suffix, open) {
  const image = make("img", { src: sample.image + suffix, alt: sample.caption, loading: "lazy", decoding: "async" });
  const score = sample.score === null ? "" : `${sample.score.toFixed(3)} · `;
  const text = make("span", { className: "text" }, make("span", { dir: "auto", textContent: score + sample.caption }));
  const folded = sample.folded ? make("span", { className: "folded", title: "near-duplicates folded", textContent: `+${grouped(sample.folded)}` }) : null;
  const item = make("li", { className: "tile" }, make("button", { type: "button", onclick: open }, image, text, folded));
  item.style.setProperty("--ratio", sample.ratio.toFixed(4));
  item.dataset.uid = sample.uid;
  return item;
}

const buttons = () => [...byId("gallery").querySelectorAll(".tile button")];

export function focused() {
  return buttons().indexOf(document.activeElement);
}

export function focus(place) {
  buttons()[place]?.focus();
}

// Left and right: the neighbours; up and down: the nearest in the row above or below.
export function move(key) {
  const all = buttons();
  const at = focused();
  if (at < 0) return focus(0);
  if (key === "ArrowLeft") return focus(Math.max(0, at - 1));
  if (key === "ArrowRight") return focus(Math.min(all.length - 1, at + 1));
  const own = all[at].getBoundingClientRect();
  const down = key === "ArrowDown";
  let best = null;
  for (const one of all) {
    const box = one.getBoundingClientRect();
    const rows = down ? box.top - own.top : own.top - box.top;
    if (rows < 5) continue;
    const distance = rows * 1000 + Math.abs(box.left + box.width / 2 - own.left - own.width / 2);
    if (!best || distance < best.distance) best = { one, distance };
  }
  best?.one.focus();
}

export function markReported(uid) {
  for (const item of byId("gallery").children) if (item.dataset.uid === uid) item.classList.add("reported");
}
