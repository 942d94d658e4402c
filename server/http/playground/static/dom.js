// Small helpers to make elements. Texts become text nodes, always: nothing here can make markup of a string.

export const $ = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const NAMES = { "\n": "↵", " ": "␣", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };

// A character so that one sees it; bytes as in \xc3.
export function shown(symbol) {
  if (symbol.startsWith("bytes:")) return symbol.slice(6);
  if (NAMES[symbol]) return NAMES[symbol];
  const code = symbol.codePointAt(0);
  return code < 32 || (code >= 127 && code < 160) ? `U+${code.toString(16).padStart(4, "0")}` : symbol;
}

const SPOKEN = { "\n": "line end", " ": "space", "\t": "tab", ".": "full stop", ",": "comma" };

export const spoken = (symbol) => SPOKEN[symbol] ?? shown(symbol);

export const percent = (share) =>
  share >= 0.9995 ? "100 %" : share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : share >= 0.001 ? `${(100 * share).toFixed(1)} %` : share > 0 ? "<0.1 %" : "0 %";

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// The end of a text, with dots where it was cut.
export function tail(text, most) {
  const symbols = Array.from(text);
  return symbols.length > most ? `…${symbols.slice(-most).join("")}` : text;
}

export function fail(box, error) {
  box.hidden = !error;
  box.textContent = error ? String(error.message ?? error) : "";
}
