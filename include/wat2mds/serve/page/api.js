// Requests to the service that the page came from, and to nobody else. Failures are Errors whose message is for people.

const TOKEN = "wat2mds-token";

// The link that the service prints has the token behind #, which is never sent; from then on this tab knows it.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(history.state, "", location.pathname + location.search);
}
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
};

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  const detail = answer?.detail;
  const why = Array.isArray(detail) ? detail.map((one) => `${one.where.slice(1).join(" ")}: ${one.problem}`).join("; ") : detail;
  throw Object.assign(new Error(why ?? `The service answered ${response.status}.`), { status: response.status });
}

const json = (content, headers = {}) => ({
  method: "POST",
  headers: { "Content-Type": "application/json", ...headers },
  body: JSON.stringify(content),
});
const withToken = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});

export const about = () => ask("api/about");
export const search = (query, signal) => ask("api/search", { ...json(query), signal });
export const sample = (uid, index) => ask(`api/samples/${uid}${index ? `?index=${encodeURIComponent(index)}` : ""}`);
export const embed = (image, index) =>
  ask(`api/embedding${index ? `?index=${encodeURIComponent(index)}` : ""}`, {
    method: "POST",
    headers: { "Content-Type": image.type || "application/octet-stream" },
    body: image,
  });
export const saveSubset = (wish) => ask("api/subsets", json(wish, withToken()));
export const report = (wish) => ask("api/reports", json(wish, withToken()));
