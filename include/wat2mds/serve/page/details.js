// One sample, large, with all that is known of it.

import * as api from "./api.js";
import { tokenField } from "./changes.js";
import { byId, grouped, link, make } from "./elements.js";
import { markReported } from "./gallery.js";

const dialog = byId("details");
let shown = null;

export const isOpen = () => dialog.open;

// `actions`: like(sample), step(by), about.
export function open(sample, actions, { previous, next }) {
  shown = { sample, actions };
  const suffix = actions.index ? `?index=${encodeURIComponent(actions.index)}` : "";
  const image = make("img", { src: sample.image + suffix, alt: sample.caption });
  image.style.setProperty("--ratio", sample.ratio.toFixed(4));
  const button = (text, label, disabled, onclick) => make("button", { type: "button", textContent: text, ariaLabel: label, title: label, disabled, onclick });
  dialog.replaceChildren(
    make("div", { className: "picture" }, image),
    make(
      "div",
      { className: "facts" },
      make(
        "div",
        { className: "top" },
        button("←", "Previous image", !previous, () => actions.step(-1)),
        button("→", "Next image", !next, () => actions.step(1)),
        button("×", "Close", false, close),
      ),
      make("h2", { id: "details-caption", dir: "auto", textContent: sample.caption }),
      make("div", { className: "actions" }, make("button", { type: "button", id: "like", className: "main", textContent: "More like this", onclick: like })),
      facts(sample),
      reporting(sample, actions.about),
    ),
  );
  if (!dialog.open) dialog.showModal();
  byId("like").focus();
}

export function close() {
  if (dialog.open) dialog.close();
}

export function like() {
  if (!shown) return;
  close();
  shown.actions.like(shown.sample);
}

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) close();
});
dialog.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") shown.actions.step(-1);
  else if (event.key === "ArrowRight") shown.actions.step(1);
  else if (event.key === "m") like();
  else return;
  event.preventDefault();
  event.stopPropagation();
});

function facts(sample) {
  const list = make("dl");
  const add = (name, value) => {
    if (value !== null && value !== undefined && value !== "") list.append(make("dt", { textContent: name }), make("dd", {}, value));
  };
  const fixed = (value, digits = 3) => (value === null ? null : value.toFixed(digits));
  const size = (width, height) => (width && height ? `${grouped(width)} × ${grouped(height)} px` : null);
  add("Score", fixed(sample.score));
  add("Near-duplicates", sample.folded ? `${grouped(sample.folded)} folded` : null);
  add("Page", sample.page_url ? link(sample.page_url) : null);
  add("Image", link(sample.url));
  add("Licence", sample.license ? link(sample.license, [sample.license_type, sample.license_version].filter(Boolean).join(" ") || sample.license) : "none stated on the page");
  add("Language", sample.language);
  add("Similarity", fixed(sample.similarity));
  add("Aesthetic", fixed(sample.aesthetic, 2));
  add("Unsafe", fixed(sample.punsafe));
  add("Tag", sample.nsfw);
  add("Watermark", fixed(sample.pwatermark));
  add("Original", size(sample.original_width, sample.original_height));
  add("Stored", size(sample.width, sample.height));
  add("Crawled", sample.crawl_date ? sample.crawl_date.slice(0, 10) : null);
  add("Snapshot", sample.snapshot);
  add("Version", String(sample.version));
  add("uid", sample.uid);
  return list;
}

function reporting(sample, about) {
  if (!about.writable) return make("p", { className: "report quiet", textContent: "This service takes no reports." });
  const reason = make("select", { id: "reason", ariaLabel: "Reason" });
  for (const [value, text] of Object.entries(about.reasons)) reason.append(make("option", { value, textContent: `It ${text}` }));
  const said = make("p", { className: "said", role: "status" });
  const field = tokenField();
  const form = make("form", {
    className: "fields",
    onsubmit: async (event) => {
      event.preventDefault();
      field.keep();
      try {
        const done = await api.report({ uid: sample.uid, reason: reason.value, index: shown.actions.index });
        said.className = "said";
        said.textContent = done.new ? "Reported. Somebody will look at it." : "It had been reported for this reason before.";
        markReported(sample.uid);
      } catch (error) {
        said.className = "said bad";
        said.textContent = error.message;
        if (error.status === 401) field.ask();
      }
    },
  });
  form.append(make("label", { textContent: "This image" }, reason), field.element, make("button", { type: "submit", id: "send-report", textContent: "Send the report" }), said);
  return make("details", { className: "report" }, make("summary", { textContent: "Report this image" }), form);
}
