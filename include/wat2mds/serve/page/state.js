// What is searched for, as the address of the page says it: every search can be gone back to, kept and sent to somebody.
// An embedding is too long for an address; it is kept in the browser's history.

const LISTS = ["language", "license", "host"];
const NUMBERS = ["min_side", "min_similarity", "min_aesthetic", "page"];
const TEXTS = ["text", "uid", "modality", "index"];
const DEFAULTS = { unsafe: false, fold: true, modality: "image", page: 1 };

export function read() {
  const parameters = new URLSearchParams(location.search);
  const query = { ...DEFAULTS };
  for (const name of LISTS) query[name] = parameters.getAll(name);
  for (const name of TEXTS) if (parameters.get(name)) query[name] = parameters.get(name);
  for (const name of NUMBERS) {
    const number = Number(parameters.get(name) || Number.NaN);
    if (Number.isFinite(number)) query[name] = number;
  }
  for (const name of ["unsafe", "fold"]) if (parameters.has(name)) query[name] = parameters.get(name) === "true";
  if (history.state?.embedding) query.embedding = history.state.embedding;
  return query;
}

export function write(query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (name === "embedding" || value === undefined || value === null || value === "" || value === DEFAULTS[name]) continue;
    for (const one of Array.isArray(value) ? value : [value]) parameters.append(name, one);
  }
  const state = query.embedding ? { embedding: query.embedding } : null;
  history.pushState(state, "", parameters.size ? `?${parameters}` : location.pathname);
}

// How many filters are set.
export function narrowed(query) {
  const lists = LISTS.reduce((sum, name) => sum + query[name].length, 0);
  const bounds = ["min_side", "min_similarity", "min_aesthetic"].filter((name) => query[name] !== undefined).length;
  return lists + bounds + (query.unsafe ? 1 : 0) + (query.fold ? 0 : 1);
}

export function cleared(query) {
  const { text, uid, embedding, index, modality } = query;
  return { ...DEFAULTS, language: [], license: [], host: [], text, uid, embedding, index, modality };
}
