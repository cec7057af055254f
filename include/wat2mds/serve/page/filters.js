// The filters: what is set, and how many samples each further value would leave.

import { byId, grouped, make } from "./elements.js";
import { cleared, narrowed } from "./state.js";

const LISTS = { language: "Language", license: "Licence", host: "Image host" };
const NONE = { language: "not known", license: "none stated", host: "none" };
const languages = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

export function show(query, answer, about, change) {
  const focused = document.activeElement?.id;
  const parts = Object.entries(LISTS).map(([field, title]) => list(field, title, query, answer.facets[field] ?? [], change));
  byId("filter-form").replaceChildren(
    comparing(query, about, change),
    parts[0],
    sides(query, answer.facets.min_side ?? [], change),
    bounds(query, change),
    ...parts.slice(1),
    toggles(query, answer, change),
    make("button", { type: "button", id: "clear", textContent: "Clear filters", disabled: !narrowed(query), onclick: () => change(cleared(query)) }),
  );
  byId("filters-set").textContent = narrowed(query) ? ` (${narrowed(query)})` : "";
  if (focused && focused !== "text") byId(focused)?.focus();
}

function group(title, ...children) {
  return make("fieldset", {}, make("legend", { textContent: title }), ...children);
}

function choice(type, id, name, text, count, checked, onchange) {
  const input = make("input", { type, id, name, checked, onchange });
  const counted = count === null ? null : make("span", { className: "count", textContent: grouped(count) });
  return make("label", { className: "choice" }, input, make("span", { className: "name", textContent: text, title: text }), counted);
}

function list(field, title, query, counts, change) {
  const shown = counts.map(({ value, count }) => ({ value: value ?? "none", count }));
  for (const value of query[field]) if (!shown.some((one) => one.value === value)) shown.push({ value, count: 0 });
  if (!shown.length) return group(title, make("span", { className: "quiet", textContent: "no samples" }));
  const named = (value) => (value === "none" ? NONE[field] : field === "language" ? languages.of(value) : value);
  return group(
    title,
    ...shown.map(({ value, count }) =>
      choice("checkbox", `${field}-${value}`, field, named(value), count, query[field].includes(value), (event) => {
        const kept = query[field].filter((one) => one !== value);
        change({ ...query, [field]: event.target.checked ? [...kept, value] : kept, page: 1 });
      }),
    ),
  );
}

function sides(query, counts, change) {
  const options = [{ value: undefined, count: null }, ...counts];
  return group(
    "Shorter side",
    ...options.map(({ value, count }) =>
      choice("radio", `side-${value ?? "any"}`, "min_side", value ? `at least ${grouped(value)} px` : "any", count, query.min_side === value, () =>
        change({ ...query, min_side: value, page: 1 }),
      ),
    ),
  );
}

function bounds(query, change) {
  const bound = (field, text, min, max, step) =>
    make("label", { className: "bound", textContent: text }, make("input", {
      type: "number", id: field, min, max, step, placeholder: "any", value: query[field] ?? "", inputMode: "decimal",
      onchange: (event) => {
        const number = event.target.value === "" ? undefined : event.target.valueAsNumber;
        if (event.target.reportValidity()) change({ ...query, [field]: number, page: 1 });
      },
    }));
  return group("At least", bound("min_similarity", "Image–caption similarity", -1, 1, 0.01), bound("min_aesthetic", "Aesthetic score", 0, 10, 0.1));
}

function toggles(query, answer, change) {
  return group(
    "Show",
    choice("checkbox", "unsafe", "unsafe", "Likely unsafe too", query.unsafe ? null : answer.hidden, query.unsafe, (event) =>
      change({ ...query, unsafe: event.target.checked, page: 1 }),
    ),
    choice("checkbox", "unfold", "unfold", "Near-duplicates too", null, !query.fold, (event) =>
      change({ ...query, fold: !event.target.checked, page: 1 }),
    ),
  );
}

function comparing(query, about, change) {
  const by = group(
    "Compare with",
    choice("radio", "modality-image", "modality", "images", null, query.modality !== "text", () => change({ ...query, modality: "image", page: 1 })),
    choice("radio", "modality-text", "modality", "captions", null, query.modality === "text", () => change({ ...query, modality: "text", page: 1 })),
  );
  if (about.indices.length > 1) {
    const select = make("select", { id: "index", onchange: (event) => change({ ...query, index: event.target.value, page: 1 }) });
    for (const { name, recall } of about.indices) {
      select.append(make("option", { value: name, textContent: `${name} (recall ${recall.toFixed(2)})`, selected: name === query.index }));
    }
    by.append(make("label", { className: "bound", textContent: "Index" }, select));
  }
  return by;
}
