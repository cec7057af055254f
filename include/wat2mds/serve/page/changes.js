// What wants the service's token: saving a result as a subset; and the field that asks for the token.

import * as api from "./api.js";
import { byId, grouped, make } from "./elements.js";

export function tokenField() {
  const input = make("input", { type: "password", autocomplete: "off", className: "token", ariaLabel: "Token" });
  const element = make("label", { textContent: "Token, which the service printed when it was started" }, input);
  element.hidden = api.token.get() !== "";
  return {
    element,
    keep: () => {
      if (!element.hidden && input.value) api.token.set(input.value.trim());
    },
    ask: () => {
      element.hidden = false;
      input.focus();
    },
  };
}

const dialog = byId("saving");

export function openSaving(query, answer, about) {
  const searched = Boolean(query.text || query.uid || query.embedding);
  const most = Math.min(about.most_saved, answer.complete ? answer.total : about.most_saved);
  const name = make("input", { type: "text", id: "subset-name", required: true, pattern: "[a-z0-9][a-z0-9_\\-]{0,63}", title: "lower case letters, digits, - and _", autocomplete: "off" });
  const count = make("input", { type: "number", id: "subset-count", min: 1, max: about.most_saved, value: most, required: true });
  const said = make("p", { className: "said", role: "status" });
  const field = tokenField();
  const submit = make("button", { type: "submit", className: "main", id: "save-now", textContent: "Save" });
  const form = make(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        field.keep();
        submit.disabled = true;
        said.className = "said";
        said.textContent = "Saving …";
        try {
          const wish = { name: name.value, query: { ...query, page: 1 } };
          if (searched) wish.count = count.valueAsNumber;
          const done = await api.saveSubset(wish);
          said.textContent = `Saved ${grouped(done.samples)} samples of version ${done.version} in ${done.folder}.`;
          cancel.textContent = "Close";
        } catch (error) {
          submit.disabled = false;
          said.className = "said bad";
          said.textContent = error.message;
          if (error.status === 401) field.ask();
        }
      },
    },
    make("h2", { id: "saving-title", textContent: "Save as subset" }),
    make("p", {
      className: "quiet",
      textContent: searched
        ? "Keeps the nearest samples of this search, with the filters as they are set."
        : "Keeps all samples of this version that pass the filters, near-duplicates too.",
    }),
    make("div", { className: "fields" }, make("label", { textContent: "Name" }, name), searched ? make("label", { textContent: "At most" }, count) : null, field.element),
    said,
  );
  const cancel = make("button", { type: "button", textContent: "Cancel", onclick: () => dialog.close() });
  form.append(make("div", { className: "actions" }, cancel, submit));
  dialog.replaceChildren(form);
  dialog.showModal();
  name.focus();
}

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
