// The page: what is asked, shown and pressed, put together.

import * as api from "./api.js";
import { openSaving } from "./changes.js";
import * as details from "./details.js";
import { byId, grouped } from "./elements.js";
import * as filters from "./filters.js";
import * as gallery from "./gallery.js";
import * as state from "./state.js";

let about = null;
let query = null;
let answer = null;
let underWay = null;
let sentImage = null; // URL of the image that was sent, in this browser's memory

async function run() {
  underWay?.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  byId("gallery").classList.add("waiting");
  byId("gallery").ariaBusy = "true";
  try {
    const found = await api.search(query, signal);
    if (signal.aborted) return;
    answer = found;
    showAnswer();
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error.message, true);
  }
  byId("gallery").classList.remove("waiting");
  byId("gallery").ariaBusy = "false";
}

function change(wanted) {
  if (query.embedding && !wanted.embedding) forgetImage();
  query = wanted;
  state.write(query);
  showQuery();
  run();
}

function fresh(wanted) {
  const { text, uid, embedding, ...rest } = query;
  change({ ...rest, page: 1, ...wanted });
  window.scrollTo(0, 0);
}

function showQuery() {
  byId("text").value = query.text ?? "";
  const like = query.uid ? `images/${query.uid}${query.index ? `?index=${encodeURIComponent(query.index)}` : ""}` : sentImage;
  byId("sent").hidden = !(query.uid || query.embedding);
  byId("sent-image").hidden = !like;
  if (like) byId("sent-image").src = like;
  byId("sent-label").textContent = query.uid ? "more like this" : "your image";
  const what = query.text ?? (query.uid ? "More like this" : query.embedding ? "By image" : "Search");
  document.title = `${what} – ${about.dataset}`;
}

function showAnswer() {
  const { samples, total, complete, hidden, page, pages } = answer;
  const folded = samples.reduce((sum, one) => sum + one.folded, 0);
  const counted = `${grouped(total)} ${total === 1 ? "sample" : "samples"}`;
  const parts = [complete ? counted : `the nearest ${counted}`];
  if (folded) parts.push(`${grouped(folded)} copies folded here`);
  if (hidden) parts.push(`${grouped(hidden)} unsafe hidden`);
  say(parts.join(" · "));
  byId("save").hidden = !about.writable || !total;
  byId("version").textContent = `${about.dataset}, version ${answer.version}.`;
  gallery.show(samples, query.index, openAt);
  filters.show(query, answer, about, change);
  byId("pages").hidden = pages < 2 && page === 1;
  byId("page-number").textContent = `Page ${grouped(page)}${complete ? ` of ${grouped(Math.max(1, pages))}` : ""}`;
  byId("previous").disabled = page <= 1;
  byId("next").disabled = page >= pages;
}

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").className = bad ? "bad" : "";
}

function openAt(place) {
  const sample = answer.samples[place];
  if (!sample) return;
  const step = (by) => {
    if (!answer.samples[place + by]) return;
    gallery.focus(place + by);
    openAt(place + by);
  };
  const actions = { like: (one) => fresh({ uid: one.uid }), step, about, index: query.index };
  details.open(sample, actions, { previous: place > 0, next: place < answer.samples.length - 1 });
}

function turn(by) {
  const page = query.page + by;
  if (page < 1 || page > answer.pages) return;
  change({ ...query, page });
  window.scrollTo(0, 0);
}

async function searchByImage(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return say("That is no image.", true);
  say("Looking at the image …");
  try {
    const { embedding } = await api.embed(file, query.index);
    forgetImage();
    sentImage = URL.createObjectURL(file);
    fresh({ embedding });
  } catch (error) {
    say(error.message, true);
  }
}

function forgetImage() {
  if (sentImage) URL.revokeObjectURL(sentImage);
  sentImage = null;
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  fresh(text ? { text } : {});
  if (text) byId("text").blur();
});
byId("unsend").addEventListener("click", () => {
  fresh({});
  byId("text").focus();
});
byId("file").addEventListener("change", (event) => {
  searchByImage(event.target.files[0]);
  event.target.value = "";
});
byId("show-filters").addEventListener("click", () => {
  const open = byId("filters").classList.toggle("open");
  byId("show-filters").ariaExpanded = String(open);
});
byId("save").addEventListener("click", () => openSaving(query, answer, about));
byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
window.addEventListener("popstate", () => {
  query = state.read();
  details.close();
  showQuery();
  run();
});

let dragged = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragenter", (event) => {
  if (hasFiles(event)) byId("drop").hidden = ++dragged < 1;
});
window.addEventListener("dragleave", (event) => {
  if (hasFiles(event)) byId("drop").hidden = --dragged < 1;
});
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dragged = 0;
  byId("drop").hidden = true;
  searchByImage(event.dataTransfer.files[0]);
});
window.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) searchByImage(file);
});

window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (event.key === "ArrowDown" && event.target === byId("text")) {
    event.preventDefault();
    return gallery.focus(0);
  }
  if (typing || !answer) return;
  if (event.key === "/") byId("text").focus();
  else if (event.key.startsWith("Arrow") && (gallery.focused() >= 0 || event.target === document.body)) gallery.move(event.key);
  else if (event.key === "m" && gallery.focused() >= 0) fresh({ uid: answer.samples[gallery.focused()].uid });
  else if (event.key === "n") turn(1);
  else if (event.key === "p") turn(-1);
  else return;
  event.preventDefault();
});

async function start() {
  try {
    about = await api.about();
  } catch (error) {
    return say(error.message, true);
  }
  byId("dataset").textContent = about.dataset;
  query = state.read();
  query.index ??= undefined;
  showQuery();
  run();
}

start();
