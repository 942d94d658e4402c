// Write: a prompt, and texts that follow it, side by side.

import { $, count, el } from "./dom.js";
import { Piece } from "./piece.js";
import { TextView, level } from "./view.js";

const START = { temperature: 0.8, "top-k": 0, "top-p": 1, "min-p": 0, length: 400 };
const SLIDERS = ["temperature", "top-k", "top-p", "min-p"];
const REASONS = {
  FINISH_REASON_LENGTH: "has its length",
  FINISH_REASON_STOP: "ended before",
  FINISH_REASON_DEADLINE: "its time is over",
  FINISH_REASON_REPEAT: "repeats itself",
};
const LIVE_EVERY = 250; // milliseconds

export class Write {
  constructor(app) {
    this.app = app;
    this.columns = [];
    this.wireForm();
    legend($("legend"));
    $("surprise").addEventListener("change", () => this.columns.forEach(({ view }) => view.recolour()));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && app.panel === "write") {
        event.preventDefault();
        $("form").requestSubmit();
      }
      if (event.key === "Escape" && !$("ask").open) this.stop();
    });
    this.layOut([new Piece("", "")]);
    $("settings").open = !matchMedia("(max-width: 860px)").matches;
  }

  wireForm() {
    for (const name of SLIDERS) {
      const [range, number] = [$(`${name}-range`), $(name)];
      number.value = range.value = START[name];
      range.addEventListener("input", () => (number.value = range.value));
      number.addEventListener("input", () => (range.value = number.value));
    }
    $("length").value = START.length;
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("more").addEventListener("click", () => this.more());
    $("undo").addEventListener("click", () => this.undo());
  }

  onModel() {
    const model = this.app.model();
    const prompts = (model?.prompts ?? []).slice(0, 5);
    $("prompts").replaceChildren(
      ...prompts.map((text) => el("button", { type: "button", title: text, onclick: () => ($("prompt").value = text) }, text)),
    );
    if (!$("prompt").value && !this.app.piece?.symbols.length) $("prompt").value = prompts[0] ?? "";
  }

  onPanel(panel) {
    if (panel === "write") this.columns.forEach(({ view }) => view.update());
  }

  // The settings of the form; `seed` is "" where the server is to choose.
  settings() {
    const number = (id, least, otherwise) => {
      const value = $(id).valueAsNumber;
      return Number.isFinite(value) ? Math.max(least, value) : otherwise;
    };
    return {
      temperature: number("temperature", 0, 1),
      topK: Math.round(number("top-k", 0, 0)),
      topP: Math.min(1, number("top-p", 0.01, 1)),
      minP: Math.min(1, number("min-p", 0, 0)),
      allowed: unescape_($("allowed").value),
      seed: $("seed").value.trim(),
      stop: $("stops").value.split("\n").filter(Boolean).map(unescape_),
      continuation: 0,
    };
  }

  get length() {
    return Math.max(1, Math.min(100_000, Math.round($("length").valueAsNumber || START.length)));
  }

  setForm(settings) {
    const names = { temperature: settings.temperature, "top-k": settings.topK, "top-p": settings.topP, "min-p": settings.minP };
    for (const [id, value] of Object.entries(names)) $(id).value = $(`${id}-range`).value = value;
    $("allowed").value = settings.allowed.replaceAll("\n", "\\n");
    if (settings.seed !== undefined) $("seed").value = settings.seed;
  }

  check() {
    if (!/^[0-9]{0,20}$/.test($("seed").value.trim()) || BigInt($("seed").value.trim() || 0) >= 2n ** 64n) {
      this.app.notice("Seed: a number from 0 to 18446744073709551615, or nothing for a new one each time.");
      $("seed").focus();
      return false;
    }
    this.app.notice(null);
    return true;
  }

  async begin() {
    if (!this.check()) return;
    this.stop();
    const model = this.app.model();
    const settings = this.settings();
    const columns = Number($("columns").value);
    if (columns > 1 && settings.seed === "") settings.seed = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    const before = this.app.pieces;
    const pieces = Array.from({ length: columns }, (_, number) => {
      const piece = before[number] ?? new Piece("", "");
      piece.keep();
      Object.assign(piece, { model: model.name, prompt: $("prompt").value, start: 0, settings: null, started: null, finish: null });
      piece.cut(0);
      piece.points = [];
      return piece;
    });
    this.layOut(pieces);
    await Promise.all(pieces.map((piece, continuation) => piece.write({ ...settings, continuation }, this.length, { again: true })));
  }

  // Writes on at the end of each text.
  async more() {
    if (!this.check()) return;
    const settings = this.settings();
    const writable = this.app.pieces.filter((piece) => !piece.isWriting && (piece.symbols.length || piece.prompt));
    await Promise.all(
      writable.map((piece) => {
        piece.keep();
        return piece.write(this.continued(piece, settings), this.length);
      }),
    );
  }

  // A text goes on with the seed that it began with, unless the form has another one.
  continued(piece, settings) {
    const { seed = "", continuation = 0 } = piece.settings ?? {};
    return { ...settings, seed: settings.seed === "" ? seed : settings.seed, continuation };
  }

  // Goes on from an earlier place with another character there.
  async branch(piece, place, symbol, after = () => {}) {
    const settings = this.continued(piece, { ...(piece.settings ?? this.settings()), stop: this.settings().stop });
    piece.stop();
    piece.keep();
    piece.choose(place, symbol);
    after();
    await piece.write(settings, this.length);
  }

  stop() {
    for (const piece of this.app.pieces) if (piece.isWriting) piece.stop();
  }

  undo() {
    for (const piece of this.app.pieces) piece.undo();
    $("prompt").value = this.app.piece?.prompt ?? "";
    this.buttons();
    this.app.say("Undone.");
  }

  // Makes the text of a permalink.
  async open(link) {
    const model = this.app.model(link.model);
    if (!model) {
      this.app.notice(`The link's model, ${link.model}, is not served here; there are ${this.app.models.map(({ versioned }) => versioned).join(", ")}.`);
      return;
    }
    this.stop();
    $("model").value = model.name;
    $("model").dispatchEvent(new Event("change"));
    const symbols = Array.from(link.given);
    $("prompt").value = symbols.slice(0, link.prompt).join("");
    $("columns").value = "1";
    this.setForm(link.settings);
    if (link.chars) $("length").value = link.chars;
    const piece = new Piece(model.name, $("prompt").value);
    for (const symbol of symbols.slice(link.prompt)) {
      piece.symbols.push(symbol);
      piece.bits.push(NaN);
      piece.tops.push(null);
    }
    this.layOut([piece]);
    piece.start = piece.symbols.length;
    if (link.chars) await piece.write(link.settings, link.chars, { again: true });
    else Object.assign(piece, { settings: link.settings, state: "done" });
    const { replica } = piece.started ?? {};
    const same = (wanted, found = "") => !wanted || found.startsWith(wanted);
    if (replica && !(same(link.digest, replica.digest) && same(link.numerics, replica.numerics))) {
      this.app.notice("The link was made with another build of this model, or on another kind of machine: this text may differ from that one.");
    }
  }

  layOut(pieces) {
    this.app.pieces = pieces;
    this.app.active = Math.min(this.app.active, pieces.length - 1);
    this.columns = pieces.map((piece, number) => this.column(piece, number));
    $("texts").classList.toggle("several", pieces.length > 1);
    $("texts").replaceChildren(...this.columns.map(({ box }) => box));
    pieces.forEach((piece, number) => {
      piece.onChange = (what) => this.onChange(piece, this.columns[number], what);
      this.columns[number].view.show(piece);
      this.foot(piece, this.columns[number]);
    });
    this.buttons();
    this.app.changed(this.app.piece, "whole");
  }

  column(piece, number) {
    const foot = el("footer");
    const title = el("b", {}, this.app.pieces.length > 1 ? `Continuation ${number + 1}` : "Text");
    const model = el("span", {}, piece.model);
    const look = el("button", { type: "button", onclick: () => this.look(number) }, "Look");
    look.setAttribute("aria-label", `Look into ${title.textContent.toLowerCase()}`);
    const text = el("div", { class: "text", tabindex: "0", role: "group", "aria-label": title.textContent });
    const box = el("article", { class: "piece", "aria-label": title.textContent }, el("header", {}, title, model, look), text, foot);
    const view = new TextView(text, { colour: (one, place) => ($("surprise").checked ? level(one.bits[place]) : ""), onPick: (place) => this.look(number, place) });
    return { box, foot, view, text, model, drawn: 0 };
  }

  look(number, place) {
    this.app.active = number;
    this.app.changed(this.app.piece, "whole");
    this.app.show("look", { focus: place === undefined });
    if (place !== undefined) this.app.lookAt?.(place);
  }

  onChange(piece, column, what) {
    column.model.textContent = piece.model;
    if (what === "whole") column.view.show(piece);
    else if (what === "more" && this.app.panel === "write") column.view.update();
    if (what !== "more" || performance.now() - column.drawn > LIVE_EVERY) {
      column.drawn = performance.now();
      this.foot(piece, column);
    }
    if (what === "end") {
      column.view.update();
      this.app.say(piece.state === "failed" ? piece.trouble : `${count(piece.symbols.length, "character")} written.`);
    }
    if (what !== "more") {
      column.text.classList.toggle("cursor", piece.isWriting && !piece.symbols.length);
      this.buttons();
    }
    this.app.changed(piece, what);
  }

  // What is known of a text: characters, speed, time to the first one, seed, surprise, and why it ended.
  foot(piece, { foot }) {
    const timing = piece.clock?.() ?? piece.timing;
    const parts = [count(piece.symbols.length, "character")];
    if (timing && timing.chars) {
      parts.push(`${Math.round(timing.chars / Math.max(timing.seconds, 0.001)).toLocaleString("en")} a second`);
      parts.push(`first after ${timing.first.toFixed(0)} ms`);
    }
    if (piece.settings?.seed) parts.push(`seed ${piece.settings.seed}`);
    if (!piece.isWriting && !Number.isNaN(piece.meanBits)) parts.push(`${piece.meanBits.toFixed(2)} bits each`);
    if (piece.state === "writing") parts.push("writing…");
    if (piece.state === "stopped") parts.push("stopped");
    if (piece.state === "done" && piece.finish) {
      const { reason, stop } = piece.finish;
      parts.push(`${REASONS[reason] ?? "ended"}${stop ? ` ${JSON.stringify(stop)}` : ""}`);
    }
    if (timing?.breaks) parts.push(`went on after ${count(timing.breaks, "break")}`);
    const shown = piece.state === "empty" ? [el("span", {}, "What the model writes comes here.")] : parts.map((part) => el("span", {}, part));
    if (piece.state === "waiting") shown.push(el("span", { class: "trouble" }, `Connection lost (${piece.trouble}); it goes on by itself.`));
    if (piece.state === "failed") {
      shown.push(el("span", { class: "trouble", role: "alert" }, piece.trouble));
      const left = () => piece.write(piece.settings, Math.max(1, piece.goal - piece.symbols.length));
      shown.push(el("button", { type: "button", onclick: left }, "Try again"));
    }
    foot.replaceChildren(...shown);
  }

  buttons() {
    const { pieces } = this.app;
    const writing = pieces.some((piece) => piece.isWriting);
    $("stop").disabled = !writing;
    $("more").disabled = writing || !pieces.some((piece) => piece.symbols.length);
    $("undo").disabled = !pieces.some((piece) => piece.undos.length);
  }
}

export function legend(box) {
  box.replaceChildren(el("span", {}, "0"), ...[1, 2, 3, 4, 5, 6, 7].map((number) => el("i", { class: `s${number}` })), el("span", {}, "8+ bits"));
}

const unescape_ = (text) => text.replace(/\\(n|t|r|\\)/g, (_, one) => ({ n: "\n", t: "\t", r: "\r", "\\": "\\" })[one]);
