// Elements from plain values. Texts of the web are only ever set as text, and links only where they are http(s).

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function link(url, text) {
  let address;
  try {
    address = new URL(url);
  } catch {
    return document.createTextNode(text ?? url);
  }
  if (address.protocol !== "https:" && address.protocol !== "http:") return document.createTextNode(text ?? url);
  return make("a", { href: address.href, target: "_blank", rel: "noopener noreferrer nofollow", textContent: text ?? url });
}

export const grouped = (number) => number.toLocaleString("en");
