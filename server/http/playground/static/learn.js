// Learn: what temperature and limits do to a distribution, how far back a model remembers, and two models with one seed.

import { postJson } from "./api.js";
import { Bars, curves, widthOf } from "./chart.js";
import { $, count, el, fail, percent, shown } from "./dom.js";
import { Piece } from "./piece.js";
import { distribution, divergence, entropy } from "./sampling.js";
import { TextView, level } from "./view.js";

const SHOWN = 16; // bars
const READ = 1024; // characters that the server reads at once
const CUTS = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512];
const SAME = 0.02; // bits off, that nobody would notice
const SETTINGS = { "l-temperature": ["temperature", 2], "l-top-k": ["topK", 0], "l-top-p": ["topP", 2], "l-min-p": ["minP", 3] };
const ALONE = "One model is served here. charstream export RUN --with-first brings a run's first checkpoint beside its best one.";
const WAIT = 400; // milliseconds after the last key

export class Learn {
  constructor(app) {
    this.app = app;
    this.bars = new Bars($("chance"));
    this.read = null; // {symbols, logprobs}
    for (const id of Object.keys(SETTINGS)) $(id).addEventListener("input", () => this.draw());
    $("context").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.ask(), WAIT);
    });
    $("learn-fresh").addEventListener("click", () => this.takeEnd());
    $("l-use").addEventListener("click", () => this.use());
    $("memory-go").addEventListener("click", () => this.remember());
    $("pair-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.pair();
    });
    this.draw();
  }

  onPanel(panel) {
    if (panel !== "learn" || !this.app.models.length) return;
    if (!$("context").value) this.takeEnd();
    else if (!this.read) this.ask();
  }

  onModel() {
    this.read = null;
    $("memory-chart").replaceChildren();
    $("memory-table").replaceChildren();
    $("memory-about").textContent = "";
    if (this.app.models.length < 2) $("pair-about").textContent = ALONE;
    if (this.app.panel === "learn") this.ask();
  }

  // The text before the character in focus, or all of it.
  takeEnd() {
    const { piece } = this.app;
    const text = piece ? piece.prompt + piece.text : "";
    $("context").value = Array.from(text || $("prompt").value).slice(-READ).join("");
    this.ask();
  }

  async ask() {
    const text = Array.from($("context").value).slice(-READ).join("");
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    fail($("learn-trouble"), null);
    try {
      const model = this.app.model();
      this.read = { symbols: Array.from(model.vocabulary), logprobs: await this.next(text, asked.signal) };
      this.draw();
    } catch (error) {
      if (error.name !== "AbortError") fail($("learn-trouble"), error);
    }
  }

  async next(text, signal) {
    const answer = await postJson("v1/activations", { model: this.app.model().name, text, last: 0 }, signal);
    return answer.next_logprobs;
  }

  settings() {
    return Object.fromEntries(Object.entries(SETTINGS).map(([id, [name]]) => [name, $(id).valueAsNumber]));
  }

  draw() {
    const settings = this.settings();
    for (const [id, [name, digits]] of Object.entries(SETTINGS)) $(`${id}-out`).textContent = name === "topK" && !settings.topK ? "off" : settings[name].toFixed(digits);
    if (!this.read) return;
    const { symbols, logprobs } = this.read;
    const own = logprobs.map(Math.exp);
    const after = distribution(logprobs, settings);
    const order = own.map((_, index) => index).sort((one, other) => own[other] - own[one]).slice(0, SHOWN);
    const byte = this.app.model().unit === "bytes";
    const name = (symbol) => (byte && symbol > "\x7f" ? `bytes:\\x${symbol.codePointAt(0).toString(16)}` : symbol);
    this.bars.draw(order.map((index) => ({ symbol: name(symbols[index]), share: after[index], before: own[index], cut: after[index] === 0 })));
    const left = after.filter((share) => share > 0).length;
    const lost = own.reduce((sum, share, index) => sum + (after[index] ? 0 : share), 0);
    const figures = [
      ["can come", `${count(left, "character")} of ${own.length}`],
      ["cut away", `${percent(lost)} of the model's own probability`],
      ["uncertainty", `${entropy(after).toFixed(2)} bits; the model's own ${entropy(own).toFixed(2)}`],
    ];
    $("chance-figures").replaceChildren(...figures.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  }

  use() {
    this.app.setSampling({ ...this.settings(), allowed: "" });
    this.app.show("write", { focus: true });
  }

  // The distribution at the end of the text, with fewer and fewer characters before it.
  async remember() {
    const symbols = Array.from($("context").value).slice(-READ);
    fail($("memory-trouble"), null);
    if (symbols.length < 2) {
      fail($("memory-trouble"), "This needs a longer text: write one, and take its end.");
      return;
    }
    $("memory-go").disabled = true;
    const vocabulary = Array.from(this.app.model().vocabulary);
    const found = [];
    try {
      const whole = await this.next(symbols.join(""));
      for (const kept of CUTS.filter((number) => number < symbols.length)) {
        const logprobs = await this.next(kept ? symbols.slice(-kept).join("") : "");
        found.push({ kept, logprobs, missing: divergence(whole, logprobs) });
        this.drawMemory(found, whole, symbols.length, vocabulary);
      }
    } catch (error) {
      fail($("memory-trouble"), error);
    }
    $("memory-go").disabled = false;
  }

  drawMemory(found, whole, length, vocabulary) {
    const points = found.map(({ kept, missing }) => [kept, missing]);
    const label = `Bits by which the distribution is off, by characters kept: ${found.map(({ kept, missing }) => `${kept}: ${missing.toFixed(2)}`).join(", ")}`;
    $("memory-chart").replaceChildren(curves([{ points, class: "first" }], { x: "characters kept", y: "bits off", log: true, dots: true, yMin: 0, label, width: widthOf($("memory-chart")) }));
    const best = (logprobs) => logprobs.map((value, index) => [vocabulary[index], Math.exp(value)]).sort((one, other) => other[1] - one[1]).slice(0, 4);
    const from = found.findIndex((_, at) => found.slice(at).every(({ missing }) => missing < SAME));
    const far = from > 0 ? `From ${count(found[from].kept, "character")} on the distribution is the same within ${SAME} bits: what is further back makes no difference here.` : "";
    $("memory-about").textContent = from < 0 ? "Even the longest part that was tried is not the same as all of the text." : far;
    const line = (kept, missing, logprobs) =>
      el("tr", {}, el("th", { scope: "row" }, String(kept)), el("td", { class: "n" }, missing.toFixed(3)), ...best(logprobs).map(([symbol, share]) => el("td", {}, el("span", { class: "symbol" }, shown(symbol)), ` ${percent(share)}`)));
    const head = el("tr", {}, el("th", { scope: "col" }, "kept"), el("th", { scope: "col", class: "n" }, "bits off"), el("th", { scope: "col", colspan: "4" }, "most probable next"));
    const lines = found.map(({ kept, missing, logprobs }) => line(kept, missing, logprobs));
    $("memory-table").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines, line(`all ${length}`, 0, whole))));
  }

  // The same prompt, seed and settings in two models.
  async pair() {
    const settings = { ...this.app.settings(), seed: $("pair-seed").value.trim() || "1", continuation: 0 };
    this.pieces?.forEach((piece) => piece.stop());
    this.pieces = ["pair-a", "pair-b"].map((id) => new Piece($(id).value, $("prompt").value));
    const boxes = this.pieces.map((piece) => {
      const text = el("div", { class: "text", tabindex: "0", role: "group", "aria-label": piece.model });
      const foot = el("footer");
      const view = new TextView(text, { colour: (one, place) => level(one.bits[place]) });
      view.show(piece);
      piece.onChange = (what) => {
        view.update();
        if (what !== "more") foot.replaceChildren(this.pairFoot(piece));
      };
      return el("article", { class: "piece", "aria-label": piece.model }, el("header", {}, el("b", {}, piece.model)), text, foot);
    });
    $("pair-texts").replaceChildren(...boxes);
    await Promise.all(this.pieces.map((piece) => piece.write(settings, this.app.length(), { again: true })));
    const [one, other] = this.pieces;
    const differ = one.symbols.findIndex((symbol, at) => symbol !== other.symbols[at]);
    const same = differ < 0 ? "The two texts are the same." : `They are the same for the first ${count(differ, "character")}.`;
    if (!one.symbols.length || !other.symbols.length) return;
    const [oneOfOther, otherOfOne] = await Promise.all([this.bitsOf(other, one.model), this.bitsOf(one, other.model)]);
    const line = (piece, bits, name) => `To ${piece.model} its own text has ${piece.meanBits.toFixed(2)} bits per character, that of ${name} ${bits}`;
    $("pair-about").textContent = `${same} ${line(one, oneOfOther, other.model)}. ${line(other, otherOfOne, one.model)}.`;
  }

  // How surprising a text is to another model, which may not know all of its characters.
  async bitsOf(piece, model) {
    try {
      const { summary } = await postJson("v1/score", { model, prompt: piece.prompt, text: piece.text });
      return summary.bits_per_char.toFixed(2);
    } catch (error) {
      return `cannot be told (${error.message})`;
    }
  }

  pairFoot(piece) {
    if (piece.state === "failed") return el("span", { class: "trouble", role: "alert" }, piece.trouble);
    const mean = Number.isNaN(piece.meanBits) ? "" : `, ${piece.meanBits.toFixed(2)} bits each`;
    return el("span", {}, `${count(piece.symbols.length, "character")}${mean}${piece.isWriting ? ", writing…" : ""}`);
  }
}
