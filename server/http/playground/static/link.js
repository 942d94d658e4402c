// Permalinks: what makes a text again, in the part of the address that is not sent to any server.

const NUMBERS = { temperature: "temperature", topK: "top_k", topP: "top_p", minP: "min_p" };

export function makeLink(piece) {
  const { given, prompt, chars, seed, continuation } = piece.recipe;
  const { settings, started } = piece;
  const query = new URLSearchParams({ model: piece.version, text: given, chars, seed });
  if (prompt !== Array.from(given).length) query.set("prompt", prompt);
  if (continuation) query.set("continuation", continuation);
  for (const [name, field] of Object.entries(NUMBERS)) query.set(field, settings[name]);
  if (settings.allowed) query.set("allowed", settings.allowed);
  if (started?.replica) {
    query.set("digest", (started.replica.digest ?? "").slice(0, 16));
    query.set("numerics", started.replica.numerics ?? "");
  }
  const page = new URL("./", document.baseURI);
  page.hash = query.toString();
  return page.href;
}

export function readLink(hash) {
  const query = new URLSearchParams(hash.slice(1));
  if (!query.has("model") || !query.has("chars")) return null;
  const number = (name, otherwise) => (query.has(name) && Number.isFinite(Number(query.get(name))) ? Number(query.get(name)) : otherwise);
  const settings = { temperature: number("temperature", 1), topK: number("top_k", 0), topP: number("top_p", 1), minP: number("min_p", 0), allowed: query.get("allowed") ?? "" };
  settings.seed = /^[0-9]{1,20}$/.test(query.get("seed") ?? "") ? query.get("seed") : "";
  settings.continuation = number("continuation", 0);
  const given = query.get("text") ?? "";
  return {
    model: query.get("model"),
    given,
    prompt: number("prompt", Array.from(given).length),
    chars: number("chars", 0),
    settings,
    digest: query.get("digest") ?? "",
    numerics: query.get("numerics") ?? "",
  };
}
