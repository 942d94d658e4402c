// Look: how surprising each character was, what else could have come, and what the hidden units do.

import { events } from "./api.js";
import { $, count, el, fail, percent, shown, spoken } from "./dom.js";
import { Piece } from "./piece.js";
import { placesOf } from "./stream.js";
import { loudest, readUnits } from "./units.js";
import { TextView, level } from "./view.js";
import { legend } from "./write.js";

const STRIPS = 12;
const STRIP_CHARS = 400; // drawn of a unit
const LOOK_CHARS = 1024; // that the server reads at once

export class Look {
  constructor(app) {
    this.app = app;
    this.place = null;
    this.units = null; // {from, symbols, values, units, scale}
    this.unit = null;
    this.measured = null; // a Piece of pasted text
    this.view = new TextView($("look-text"), {
      colour: (piece, place) => this.colour(piece, place),
      onPick: (place) => this.pick(place),
      onHover: (place) => this.inspect(place),
    });
    $("look-text").addEventListener("keydown", (event) => this.onKey(event));
    $("look-text").addEventListener("pointerleave", () => this.place !== null && this.inspect(this.place));
    $("colour-by").addEventListener("change", () => this.recolour());
    $("find").addEventListener("change", () => this.drawStrips());
    $("state").addEventListener("change", () => this.readUnits());
    $("read-units").addEventListener("click", () => this.readUnits());
    $("score-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.measure();
    });
    legend($("look-legend"));
    app.lookAt = (place) => this.pick(place, { scroll: true });
  }

  get piece() {
    return this.measured ?? this.app.piece;
  }

  onPanel(panel) {
    this.isShown = panel === "look";
    if (this.isShown && this.stale) this.whole();
    if (this.isShown) {
      this.view.update();
      this.figures();
    }
  }

  onModel() {
    const { layers = 1, cell } = this.app.model(this.piece?.model) ?? {};
    const names = Array.from({ length: layers }, (_, layer) => (cell === "lstm" ? [`h${layer}`, `c${layer}`] : [`h${layer}`])).flat();
    const words = { h: "output", c: "memory" };
    const before = $("state").value;
    $("state").replaceChildren(...names.map((name) => el("option", { value: name }, `${Number(name.slice(1)) + 1}, ${words[name[0]]}`)));
    $("state").value = names.includes(before) ? before : `h${layers - 1}`;
  }

  onText(what) {
    if (what === "whole") {
      this.measured = null;
      this.stale = true;
      this.units = this.unit = null;
      if (this.isShown) this.whole();
      return;
    }
    if (this.measured || !this.isShown) return;
    this.view.update();
    if (what === "end") this.figures();
  }

  whole() {
    this.stale = false;
    this.place = null;
    this.view.show(this.piece);
    this.chips();
    this.figures();
    this.onModel();
    this.drawStrips();
    $("inspected").replaceChildren(el("p", { class: "empty" }, this.piece?.symbols.length ? "Choose a character." : "Write something first, or measure a text below."));
  }

  figures() {
    const { piece } = this;
    const bits = piece?.meanBits;
    $("look-mean").textContent = piece && !Number.isNaN(bits) ? `${bits.toFixed(3)} bits per character, ${count(piece.symbols.length, "character")}` : "";
  }

  chips() {
    const { pieces, active } = this.app;
    const chips = pieces.map((_, number) => ({ name: pieces.length > 1 ? `Continuation ${number + 1}` : "Text", is: !this.measured && number === active, go: () => this.choose(number) }));
    if (this.measured) chips.push({ name: "Measured text", is: true, go: () => {} });
    const show = chips.length > 1;
    $("which").replaceChildren(...(show ? chips.map(({ name, is, go }) => el("button", { type: "button", "aria-pressed": String(is), onclick: go }, name)) : []));
  }

  choose(number) {
    this.app.active = number;
    this.app.changed(this.app.piece, "whole");
  }

  colour(piece, place) {
    const by = $("colour-by").value;
    if (by === "surprise") return level(piece.bits[place]);
    if (by === "unit" && this.units && this.unit !== null) return unitClass(this.valueAt(place));
    return "";
  }

  // The chosen unit after the character at a place, from -1 to 1; NaN where it was not read.
  valueAt(place) {
    const at = place - this.units.from;
    return at >= 0 && at < this.units.count ? this.units.share(at, this.unit) : NaN;
  }

  recolour() {
    $("look-legend").hidden = $("colour-by").value !== "surprise";
    this.view.recolour();
  }

  pick(place, { scroll = false } = {}) {
    if (this.stale) this.whole();
    this.place = place;
    this.inspect(place);
    const draw = () => {
      this.view.select(place, { scroll });
      if (!this.view.cells[place] && place < this.piece.symbols.length) requestAnimationFrame(draw);
    };
    draw();
  }

  inspect(place) {
    const { piece } = this;
    if (!piece || place === null || place < 0 || place >= piece.symbols.length) return;
    const symbol = piece.symbols[place];
    const bits = piece.bits[place];
    const about = Number.isNaN(bits) ? "not measured" : `${bits.toFixed(2)} bits, probability ${percent(2 ** -bits)}`;
    const unit = this.units && this.unit !== null && !Number.isNaN(this.valueAt(place)) ? `, unit ${this.unit}: ${this.units.at(place - this.units.from, this.unit).toFixed(2)}` : "";
    const head = el("div", { class: "big-symbol" }, el("b", {}, shown(symbol)), el("span", {}, `${about}${unit}`));
    const top = piece.tops[place] ?? [];
    const most = top.length ? Math.exp(top[0][1]) : 1;
    const rows = top.map(([other, logprob]) => this.alternative(place, other, Math.exp(logprob), most, other === symbol));
    const what = rows.length ? el("p", { class: "hint" }, this.measured ? "What the model expected here." : "What could have come here: choose one, and the text goes on from it.") : null;
    const chosen = piece.chosen.has(place) ? el("p", { class: "hint" }, "You chose this one.") : null;
    $("inspected").replaceChildren(head, ...[what, chosen].filter(Boolean), el("div", { class: "bars" }, ...rows));
    if (document.activeElement === $("look-text")) {
      const others = top.slice(0, 3).map(([other, logprob]) => `${spoken(other)} ${percent(Math.exp(logprob))}`);
      this.app.say(`${spoken(symbol)}: ${about}. ${others.join(", ")}`);
    }
  }

  alternative(place, symbol, share, most, is) {
    const bar = el("i", { class: "now" });
    bar.style.width = `${(100 * share) / most}%`;
    const isByte = symbol.startsWith("bytes:");
    return el(
      "button",
      {
        type: "button",
        class: "alternative",
        "aria-current": is ? "true" : null,
        disabled: is || isByte || Boolean(this.measured),
        onclick: () => this.branch(place, symbol),
        onkeydown: (event) => this.onAlternativeKey(event),
      },
      el("span", { class: "unseen" }, `${is ? "" : "Go on with "}${spoken(symbol)}, `),
      el("span", { class: "symbol", "aria-hidden": "true" }, shown(symbol)),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "share" }, percent(share)),
    );
  }

  onAlternativeKey(event) {
    if (event.key === "Escape") {
      event.stopPropagation(); // it does not stop a text that is being written
      $("look-text").focus();
    }
    const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!next) return;
    event.preventDefault();
    let other = event.currentTarget[next];
    while (other?.disabled) other = other[next];
    other?.focus();
  }

  async branch(place, symbol) {
    const { piece } = this;
    await this.app.branch(piece, place, symbol, () => this.pick(place, { scroll: true }));
  }

  onKey(event) {
    const last = (this.piece?.symbols.length ?? 0) - 1;
    if (last < 0) return;
    const at = this.place ?? last;
    const moves = {
      ArrowRight: () => at + 1,
      ArrowLeft: () => at - 1,
      ArrowDown: () => this.view.placeBeside(at, 1),
      ArrowUp: () => this.view.placeBeside(at, -1),
      Home: () => 0,
      End: () => last,
      Enter: () => null,
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.key === "Enter") {
      $("inspected").querySelector(".alternative:not(:disabled)")?.focus();
      return;
    }
    this.pick(Math.max(0, Math.min(last, this.place === null ? last : move())), { scroll: true });
  }

  // The hidden units after the last characters of the text, as many as the server reads at once.
  async readUnits() {
    const { piece } = this;
    fail($("units-trouble"), null);
    if (!piece || !(piece.symbols.length || piece.prompt)) {
      fail($("units-trouble"), "There is no text yet: write one, or measure one.");
      return;
    }
    $("read-units").disabled = true;
    $("units-about").textContent = "The server reads the text once more, step by step…";
    try {
      const read = await readUnits(piece, $("state").value, LOOK_CHARS);
      if (piece === this.piece) [this.units, this.unit] = [read, null];
      this.drawStrips();
      if ($("colour-by").value === "surprise" && this.unit !== null) $("colour-by").value = "unit";
      this.recolour();
    } catch (error) {
      fail($("units-trouble"), error);
    }
    $("read-units").disabled = false;
    this.aboutUnits();
  }

  aboutUnits() {
    const read = this.units;
    $("units-about").textContent = read
      ? `${read.units} units over the last ${count(read.count, "character")}; orange is above 0, blue below. Choose a strip, and it colours the text.`
      : "Each unit as a strip along the text: choose one and it colours the text. The server reads the text once more for it.";
  }

  drawStrips() {
    const read = this.units;
    this.aboutUnits();
    if (!read) {
      $("strips").replaceChildren();
      return;
    }
    const found = loudest(read, this.piece, $("find").value).slice(0, STRIPS);
    this.unit ??= found[0].unit;
    if (!found.some(({ unit }) => unit === this.unit)) this.unit = found[0].unit;
    $("strips").replaceChildren(...found.map(({ unit, score }) => this.strip(unit, score)));
    this.recolour();
  }

  strip(unit, score) {
    const read = this.units;
    const canvas = el("canvas", { "aria-hidden": "true" });
    const shownChars = Math.min(read.count, STRIP_CHARS);
    canvas.width = shownChars;
    canvas.height = 1;
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(shownChars, 1);
    for (let at = 0; at < shownChars; at++) {
      const value = read.share(read.count - shownChars + at, unit);
      image.data.set([...(value > 0 ? [226, 122, 30] : [40, 116, 190]), Math.round(255 * Math.min(1, Math.abs(value) ** 0.8))], 4 * at);
    }
    pen.putImageData(image, 0, 0);
    const use = () => {
      this.unit = unit;
      $("colour-by").value = "unit";
      for (const other of $("strips").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      this.recolour();
      if (this.place !== null) this.inspect(this.place);
    };
    const button = el("button", { type: "button", "aria-pressed": String(unit === this.unit), onclick: use }, `unit ${String(unit).padEnd(4)} ${$("find").value === "spread" ? "±" : score >= 0 ? "+" : "−"}${Math.abs(score).toFixed(2)}`);
    return el("div", { class: "strip" }, button, canvas);
  }

  // Scores a pasted text, and shows it as if it had been written.
  async measure() {
    const text = $("score-text").value;
    fail($("score-trouble"), text ? null : "Paste a text first.");
    if (!text) return;
    const piece = new Piece(this.app.model().name, "");
    $("score").disabled = true;
    try {
      const symbols = Array.from(text);
      for await (const part of events("v1/score", { model: piece.model, text, alternatives: 8, stream: true }, undefined)) {
        for (const place of part.logprobs ? placesOf(part.logprobs, 8) : []) {
          piece.bits.push(-place.logprob / Math.LN2);
          piece.tops.push(place.top);
        }
      }
      piece.symbols = symbols;
      piece.state = "done";
      this.measured = piece;
      this.units = this.unit = null;
      $("colour-by").value = "surprise";
      this.whole();
      this.app.say($("look-mean").textContent);
    } catch (error) {
      fail($("score-trouble"), error);
    }
    $("score").disabled = false;
  }
}

function unitClass(value) {
  if (Number.isNaN(value)) return "";
  const size = Math.min(4, Math.floor(Math.abs(value) * 5));
  return size ? `u${value > 0 ? "p" : "n"}${size}` : "";
}
