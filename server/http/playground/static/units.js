// Hidden units along a text, and which of them follow something that one can name.

import { postJson } from "./api.js";

// Reads the units after the last characters of a piece; the text before them is read as far as the server allows.
export async function readUnits(piece, state, most) {
  const text = Array.from(piece.prompt + piece.text);
  const end = text.slice(-most);
  const length = piece.symbols.length; // it may grow meanwhile
  const answer = await postJson("v1/activations", { model: piece.model, text: end.join(""), state, last: Math.min(end.length, length || end.length) });
  const bytes = Uint8Array.from(atob(answer.values), (char) => char.charCodeAt(0));
  const levels = joined(new Int8Array(bytes.buffer), answer);
  const count = levels.length / answer.units;
  const at = (place, unit) => levels[place * answer.units + unit] * answer.scale;
  // Each unit has a range of its own: those of a cell's memory have no bound.
  const largest = new Float64Array(answer.units);
  levels.forEach((value, place) => {
    const unit = place % answer.units;
    largest[unit] = Math.max(largest[unit], Math.abs(value) * answer.scale);
  });
  return { at, share: (place, unit) => at(place, unit) / (largest[unit] || 1), count, units: answer.units, from: length - count, length };
}

// Of a model of bytes: the units after the last byte of each character.
function joined(levels, { tokens, units }) {
  if (!tokens.some((token) => token.startsWith("bytes:"))) return levels;
  const ends = tokens.flatMap((_, at) => (/^bytes:\\x[89ab]/.test(tokens[at + 1] ?? "") ? [] : [at]));
  return Int8Array.from(ends.flatMap((at) => [...levels.subarray(at * units, (at + 1) * units)]));
}

// What a unit may follow, as a number for each character of the text.
const PROPERTIES = {
  quotes: (symbols) => {
    let open = 0;
    return symbols.map((symbol) => {
      if (symbol === '"') open = 1 - open;
      else if (symbol === "\n") open = 0; // a quote that was never closed says nothing of the next line
      return open;
    });
  },
  brackets: (symbols) => {
    let depth = 0;
    return symbols.map((symbol) => {
      if ("([{".includes(symbol)) depth++;
      else if (")]}".includes(symbol)) depth = Math.max(0, depth - 1);
      return Math.min(depth, 3);
    });
  },
  line: (symbols) => counted(symbols, (symbol) => symbol === "\n"),
  word: (symbols) => counted(symbols, (symbol) => !/[\p{L}\p{N}_]/u.test(symbol)),
  upper: (symbols) => symbols.map((symbol) => Number(symbol !== symbol.toLowerCase())),
};

function counted(symbols, starts) {
  let place = 0;
  return symbols.map((symbol) => (place = starts(symbol) ? 0 : place + 1));
}

// Returns all units, those first that follow a property most closely, by correlation; or those that move most.
export function loudest(read, piece, name) {
  const [from, end] = [Math.max(0, read.from), read.length];
  const symbols = piece.symbols.slice(from, end);
  const wanted = name === "surprise" ? piece.bits.slice(from, end).map((bits) => bits || 0) : PROPERTIES[name]?.(symbols);
  const found = [];
  for (let unit = 0; unit < read.units; unit++) {
    const values = Array.from({ length: read.count }, (_, at) => read.at(at, unit));
    found.push({ unit, score: wanted && wanted.length === values.length ? correlation(values, wanted) : spread(values) });
  }
  return found.sort((one, other) => Math.abs(other.score) - Math.abs(one.score));
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / (values.length || 1);

function spread(values) {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}

function correlation(one, other) {
  const [a, b] = [mean(one), mean(other)];
  let [both, first, second] = [0, 0, 0];
  for (let at = 0; at < one.length; at++) {
    both += (one[at] - a) * (other[at] - b);
    first += (one[at] - a) ** 2;
    second += (other[at] - b) ** 2;
  }
  return first && second ? both / Math.sqrt(first * second) : 0;
}
