// Know: what the model is, how it learned, and how busy the server is.

import { ApiError, events, getJson } from "./api.js";
import { curves, widthOf } from "./chart.js";
import { $, el, fail } from "./dom.js";
import { render } from "./markdown.js";

const AGAIN = 3000; // milliseconds after a break

export class Know {
  constructor(app) {
    this.app = app;
    this.watch = null;
    this.last = null;
    document.addEventListener("visibilitychange", () => this.onPanel(app.panel));
  }

  onPanel(panel) {
    const watches = panel === "know" && !document.hidden && this.app.models.length;
    if (!watches) {
      this.watch?.abort();
      this.watch = null;
      return;
    }
    if (this.told !== this.app.model().versioned) this.tell();
    if (!this.watch) this.follow();
  }

  onModel() {
    if (this.app.panel === "know") this.tell();
  }

  async tell() {
    const model = this.app.model();
    this.told = model.versioned;
    this.figures(model, null);
    try {
      const card = await getJson(`v1/cards/${encodeURIComponent(model.versioned)}`);
      if (this.told !== model.versioned) return;
      if (card.card) render(card.card, $("card"));
      else $("card").replaceChildren(el("p", { class: "empty" }, "This bundle has no card."));
      this.curve(card.curve, model);
      const fresh = await getJson(`v1/models/${encodeURIComponent(model.versioned)}`);
      this.figures({ ...model, ...fresh.charstream, name: model.name }, card.training);
    } catch (error) {
      const box = el("p", { class: "trouble", role: "alert" });
      fail(box, error);
      $("card").replaceChildren(box);
    }
  }

  curve(curve, model) {
    if (!curve) {
      $("curve").replaceChildren(el("p", { class: "empty" }, "This bundle was exported without its training curve: export the run again to have it here."));
      return;
    }
    const inBits = (points) => points.map(([step, nats]) => [step, nats / Math.LN2]);
    const unit = model.unit === "bytes" ? "byte" : "character";
    const series = [
      { points: inBits(curve.training), class: "first" },
      { points: inBits(curve.validation), class: "second" },
    ].filter(({ points }) => points.length);
    const last = (points) => (points.length ? `${points.at(-1)[1].toFixed(3)} at step ${points.at(-1)[0]}` : "none");
    const label = `Loss in bits per ${unit}: training ends at ${last(inBits(curve.training))}, held-out text at ${last(inBits(curve.validation))}`;
    const at = model.training?.steps ? `; the bundle has the weights of step ${Number(model.training.steps).toLocaleString("en")}` : "";
    $("curve").replaceChildren(
      el("p", { class: "key" }, el("span", {}, el("i", {}), "training"), el("span", {}, el("i", { class: "second" }), "held-out text")),
      curves(series, { width: widthOf($("curve")), height: 260, x: "optimiser steps", y: `bits per ${unit}`, label }),
      el("p", { class: "hint" }, `${label}${at}.`),
    );
  }

  figures(model, training) {
    const losses = Object.entries(model.training?.validation_nats ?? {});
    const unit = model.unit === "bytes" ? "byte" : "character";
    const rows = [
      ["name, version", model.versioned],
      ["cell", `${(model.cell ?? "").toUpperCase()}, ${model.layers} × ${model.hidden}`],
      ["parameters", Number(model.training?.parameters ?? 0).toLocaleString("en")],
      ["trained on", model.training?.data],
      ["steps", Number(model.training?.steps ?? 0).toLocaleString("en")],
      ["time of training", training?.seconds ? `${Math.round(training.seconds).toLocaleString("en")} s` : null],
      ...losses.map(([protocol, nats]) => [`held out, ${protocol.replaceAll("_", " ")}`, `${nats.toFixed(4)} nats, ${(nats / Math.LN2).toFixed(4)} bits per ${unit}`]),
      ["vocabulary", `${Array.from(model.vocabulary ?? "").length} ${model.unit ?? "characters"}`],
      ["state", (model.state ?? "").replace("MODEL_STATE_", "").replaceAll("_", " ").toLowerCase()],
      ["precision", model.precision],
      ["runs on", model.provider],
      ["numerics", model.numerics],
      ["digest", model.digest?.slice(0, 16)],
    ];
    $("model-figures").replaceChildren(...rows.filter(([, value]) => value).flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, String(value))]));
  }

  // Follows the server's load while the panel is seen.
  async follow() {
    const watch = (this.watch = new AbortController());
    while (!watch.signal.aborted) {
      try {
        for await (const load of events("v1/load?stream=true", undefined, watch.signal, { done: false })) this.load(load);
      } catch (error) {
        if (watch.signal.aborted) return;
        const box = el("p", { class: "trouble" });
        fail(box, error);
        $("load").replaceChildren(box);
        if (error instanceof ApiError) return;
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }

  load(load) {
    const now = performance.now();
    const rows = [];
    for (const [name, about] of Object.entries(load.models)) {
      const before = this.last?.load.models[name];
      const speed = before ? Math.max(0, (about.generated ?? 0) - (before.generated ?? 0)) / ((now - this.last.now) / 1000) : 0;
      rows.push(
        el("h3", {}, name),
        meter("rows", about.rows ?? 0, load.max_rows),
        meter("queue", about.waiting ?? 0, load.max_waiting, "waits"),
        el("p", { class: "hint" }, `${Math.round(speed).toLocaleString("en")} characters a second, ${Number(about.generated ?? 0).toLocaleString("en")} since the start`),
      );
    }
    this.last = { load, now };
    $("load").replaceChildren(el("p", { class: "hint" }, `The server is ${load.stage}.`), ...rows);
  }
}

function meter(name, value, most, kind = "") {
  const bar = el("i", { class: `now ${kind}` });
  bar.style.width = `${Math.min(100, (100 * value) / Math.max(1, most))}%`;
  return el("div", { class: "meter" }, el("div", { class: "label" }, el("span", {}, name), el("span", {}, `${value} of ${most}`)), el("div", { class: "track", "aria-hidden": "true" }, bar));
}
