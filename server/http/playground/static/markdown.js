// A card's markdown as elements: headings, tables, code, paragraphs. All else is text.

import { el } from "./dom.js";

export function render(text, box) {
  box.replaceChildren();
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const heading = /^(#{1,4}) (.*)/.exec(line);
    if (line.startsWith("```")) {
      const code = [];
      for (at++; at < lines.length && !lines[at].startsWith("```"); at++) code.push(lines[at]);
      at++;
      box.append(el("pre", { tabindex: "0" }, code.join("\n")));
    } else if (heading) {
      box.append(el(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])));
      at++;
    } else if (line.startsWith("|")) {
      const rows = [];
      for (; at < lines.length && lines[at].startsWith("|"); at++) rows.push(cells(lines[at]));
      box.append(table(rows.filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell) || !cell))));
    } else if (!line.trim()) {
      at++;
    } else {
      const part = [];
      for (; at < lines.length && lines[at].trim() && !/^(#|\||```)/.test(lines[at]); at++) part.push(lines[at]);
      if (!part.length) part.push(lines[at++]);
      box.append(el("p", {}, ...inline(part.join(" "))));
    }
  }
}

const cells = (line) => line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim().replaceAll("\\|", "|"));

function table(rows) {
  const body = rows.map((row) => el("tr", {}, ...row.map((cell, number) => el(number ? "td" : "th", number ? {} : { scope: "row" }, ...inline(cell)))));
  return el("table", {}, el("tbody", {}, ...body));
}

const inline = (text) => text.split(/(`[^`]*`)/).map((part) => (/^`.*`$/s.test(part) ? el("code", {}, part.slice(1, -1)) : part));
