// Shows a text, a cell for each character, line by line, so that what is added lays out the last line only.

import { el } from "./dom.js";

const CELLS_A_FRAME = 250;
const LONGEST_LINE = 2000; // cells: a text without line ends is not one endless line to lay out
const EDGES = [1, 2, 3, 4, 5, 6.5, 8]; // bits

export function level(bits) {
  if (Number.isNaN(bits)) return "";
  let number = 0;
  while (number < EDGES.length && bits >= EDGES[number]) number++;
  return `s${number}`;
}

export class TextView {
  // colour: (piece, place) -> class of a cell
  constructor(box, { onPick = () => {}, onHover = () => {}, colour = () => "" } = {}) {
    Object.assign(this, { box, onPick, onHover, colour });
    this.cells = [];
    this.frame = 0;
    this.piece = null;
    this.follows = true;
    this.lastTop = 0;
    box.addEventListener("scroll", () => {
      if (box.scrollTop < this.lastTop) this.follows = false;
      if (box.scrollTop + box.clientHeight >= box.scrollHeight - 24) this.follows = true;
      this.lastTop = box.scrollTop;
    });
    box.addEventListener("click", (event) => this.at(event, (place) => this.onPick(place)));
    box.addEventListener("pointerover", (event) => this.at(event, (place) => this.onHover(place)));
  }

  at(event, use) {
    const cell = event.target.closest?.(".c");
    if (cell) use(this.cells.indexOf(cell));
  }

  show(piece) {
    this.piece = piece;
    this.clear();
    this.update();
  }

  clear() {
    this.cells = [];
    this.follows = true;
    this.selected = null;
    this.line = null;
    this.box.replaceChildren();
    const lines = (this.piece?.prompt ?? "").split("\n");
    lines.forEach((text, number) => {
      this.newLine();
      if (text || number < lines.length - 1) this.line.append(el("span", { class: "p" }, text));
    });
  }

  newLine() {
    this.line = el("div", { class: "line" });
    this.length = 0;
    this.box.append(this.line);
  }

  // Draws what is new, a part of it in each frame.
  update() {
    if (!this.frame) this.frame = this.soon(() => this.draw());
  }

  soon(work) {
    return document.hidden ? setTimeout(work, 100) : requestAnimationFrame(work);
  }

  get isDrawn() {
    return !this.piece || this.cells.length === this.piece.symbols.length;
  }

  draw() {
    this.frame = 0;
    if (!this.piece) return;
    const { symbols } = this.piece;
    if (this.cells.length > symbols.length) {
      this.clear();
    }
    const end = Math.min(symbols.length, this.cells.length + CELLS_A_FRAME);
    let part = document.createDocumentFragment();
    for (let place = this.cells.length; place < end; place++) {
      const cell = this.cell(place);
      part.append(cell);
      this.cells.push(cell);
      this.length++;
      if (symbols[place] === "\n" || this.length >= LONGEST_LINE) {
        this.line.append(part);
        part = document.createDocumentFragment();
        this.newLine();
      }
    }
    this.line.append(part);
    if (this.follows && this.box.scrollHeight > this.box.clientHeight) {
      this.box.scrollTop = this.box.scrollHeight;
      this.lastTop = this.box.scrollTop;
    }
    if (end < symbols.length) this.update();
  }

  cell(place) {
    const symbol = this.piece.symbols[place];
    const cell = document.createElement("span");
    cell.className = this.classOf(place);
    if (symbol !== "\n") cell.textContent = symbol;
    return cell;
  }

  classOf(place) {
    const own = this.piece.symbols[place] === "\n" ? "c nl" : "c";
    const chosen = this.piece.chosen.has(place) ? " chosen" : "";
    const selected = place === this.selected ? " selected" : "";
    return `${own} ${this.colour(this.piece, place)}${chosen}${selected}`;
  }

  recolour() {
    this.cells.forEach((cell, place) => {
      const wanted = this.classOf(place);
      if (cell.className !== wanted) cell.className = wanted;
    });
  }

  select(place, { scroll = false } = {}) {
    const before = this.selected;
    this.selected = place;
    for (const one of [before, place]) if (this.cells[one]) this.cells[one].className = this.classOf(one);
    if (scroll) this.cells[place]?.scrollIntoView({ block: "nearest" });
  }

  // The place a line above or below, at about the same column.
  placeBeside(place, lines) {
    const cell = this.cells[place];
    if (!cell) return place;
    const { left, top, height } = cell.getBoundingClientRect();
    let best = place;
    let score = Infinity;
    const step = lines > 0 ? 1 : -1;
    for (let other = place + step; other >= 0 && other < this.cells.length && Math.abs(other - place) < 400; other += step) {
      const rect = this.cells[other].getBoundingClientRect();
      const rows = (rect.top - top) / (height || 1);
      if (rows * step > 1.7) break;
      if (rows * step > 0.5 && Math.abs(rect.left - left) < score) {
        score = Math.abs(rect.left - left);
        best = other;
      }
    }
    return best;
  }
}
