// Take away: a link that makes the text again, the call that made it, and the text itself.

import { $, el, fail } from "./dom.js";
import { code } from "./calls.js";
import { makeLink } from "./link.js";

export class Take {
  constructor(app) {
    this.app = app;
    $("language").addEventListener("change", () => this.draw());
    $("copy-link").addEventListener("click", () => this.copy($("link").value, $("link")));
    $("copy-text").addEventListener("click", () => this.copy(this.whole));
    $("copy-code").addEventListener("click", () => this.copy($("code").textContent));
    $("save-text").addEventListener("click", () => save(`${this.name}.txt`, this.whole, "text/plain"));
    $("save-json").addEventListener("click", () => save(`${this.name}.json`, JSON.stringify(this.record(), null, 1), "application/json"));
  }

  get piece() {
    return this.app.piece;
  }

  get whole() {
    return this.piece ? this.piece.prompt + this.piece.text : "";
  }

  get name() {
    return `${(this.piece.version || "text").replace(/[^\w.-]/g, "-")}-${this.piece.settings?.seed || "text"}`;
  }

  onPanel(panel) {
    if (panel === "take") this.draw();
  }

  onText(what) {
    if (this.app.panel === "take" && what !== "more") this.draw();
  }

  draw() {
    const { piece } = this;
    const ready = Boolean(piece?.settings && piece.settings.seed !== "" && !piece.isWriting);
    for (const id of ["copy-link", "save-json", "copy-code"]) $(id).disabled = !ready;
    for (const id of ["copy-text", "save-text"]) $(id).disabled = !this.whole;
    $("open-link").hidden = !ready;
    $("take-text").textContent = this.whole || "No text yet.";
    $("code-hint").textContent = "";
    if (!ready) {
      const why = piece?.isWriting ? "The text is still being written." : "Write a text first: then its link and its call are here.";
      $("link").value = $("code").textContent = why;
      return;
    }
    const made = this.app.models.find(({ digest }) => digest === piece.started?.replica?.digest);
    piece.version = (made ?? this.app.model(piece.model))?.versioned ?? piece.model;
    $("link").value = makeLink(piece);
    $("open-link").href = $("link").value;
    const call = code($("language").value, piece);
    $("code").textContent = call.text;
    $("code-hint").textContent = call.hint;
  }

  record() {
    const { piece } = this;
    const { settings } = piece;
    return {
      model: piece.version,
      replica: piece.started?.replica ?? null,
      prompt: piece.prompt,
      text: piece.text,
      seed: settings.seed,
      continuation: settings.continuation ?? 0,
      sampling: { temperature: settings.temperature, top_k: settings.topK, top_p: settings.topP, min_p: settings.minP, allowed: settings.allowed || null },
      stop: settings.stop ?? [],
      chosen: [...piece.chosen],
      finish: piece.finish?.reason ?? null,
      logprobs: piece.bits.map((bits) => (Number.isNaN(bits) ? null : -bits * Math.LN2)),
      alternatives: piece.tops,
    };
  }

  async copy(text, field) {
    try {
      await navigator.clipboard.writeText(text);
      this.app.say("Copied.");
    } catch {
      // Pages that came without TLS from another machine may only copy what is selected.
      const box = field ?? document.body.appendChild(el("textarea", { readonly: true }));
      if (!field) box.value = text;
      box.select();
      const done = document.execCommand("copy");
      if (!field) box.remove();
      fail($("notice"), done ? null : "The browser does not let this page copy: select the text and copy it.");
    }
  }
}

function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
