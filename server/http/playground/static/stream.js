// A text that is being written: it goes on by itself after a connection breaks or a server restarts, as the Python client
// does. What came is sent back as `received`, from the newest checkpoint on, and only what follows it is generated.

import { ApiError, Lost, events } from "./api.js";

const FIRST_WAIT = 100; // milliseconds; waits double
const LONGEST_WAIT = 2000;
const PATIENCE = 60_000; // milliseconds without anything new
const BYTE = /^bytes:\\x([0-9a-f]{2})$/;
const CONTINUES = /^bytes:\\x[89ab]/;

// The places of an answer's `logprobs`, one for each character; the bytes of a character are joined.
export function placesOf(numbers, most) {
  const places = [];
  numbers.tokens.forEach((token, number) => {
    const logprob = numbers.token_logprobs[number];
    if (CONTINUES.test(token) && places.length) {
      places[places.length - 1].logprob += logprob;
      return;
    }
    const found = Object.entries(numbers.top_logprobs?.[number] ?? {});
    found.sort((one, other) => other[1] - one[1]);
    places.push({ logprob, top: found.slice(0, most), joins: BYTE.test(token) });
  });
  return places;
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

function base64Of(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

export class TextStream {
  // request: GenerateRequest in JSON form. whole: the same prompt without a token, for servers that refuse ours.
  constructor(request, { whole = null, logprobs = 8, onPart = () => {}, onTrouble = () => {} } = {}) {
    Object.assign(this, { request, whole, logprobs, onPart, onTrouble });
    this.symbols = []; // of the text so far, characters each
    this.raw = []; // of a model of bytes: all bytes
    this.started = null;
    this.finish = null;
    this.breaks = 0; // after which it went on
    this.origin = { token: request.resume_token ?? "", prompt: request.prompt ?? "" };
    this.base = { ...this.origin, chars: 0, generated: 0 };
    this.checkpoint = null;
    this.first = 0; // milliseconds to the first character
  }

  get count() {
    return this.raw.length || this.symbols.length;
  }

  // Streams to the end; returns the finish, or null if `signal` ended it. Throws ApiError, or Lost after much patience.
  async run(signal) {
    this.began = performance.now();
    let failures = 0;
    let giveUpAt = 0;
    for (;;) {
      const before = this.count;
      try {
        for await (const event of events("v1/completions", this.body(), signal)) this.take(event);
        if (this.finish && this.finish.reason !== "FINISH_REASON_DRAINED") return this.finish;
        throw new Lost("the server ends");
      } catch (error) {
        if (signal.aborted) return null;
        if (this.finish && this.finish.reason !== "FINISH_REASON_DRAINED") return this.finish;
        if (this.count > before || !failures) {
          failures = 0;
          giveUpAt = performance.now() + PATIENCE;
        }
        failures += 1;
        await this.recover(error, failures, giveUpAt, signal);
        if (signal.aborted) return null;
      }
    }
  }

  async recover(error, failures, giveUpAt, signal) {
    if (error instanceof ApiError) {
      if (error.param === "resume_token" && this.dropToken()) return;
      if (!(error.status === 429 && this.started && error.retryAfter)) throw error;
    } else if (!(error instanceof Lost) || !this.started) {
      throw error;
    }
    if (performance.now() > giveUpAt) throw error;
    if (failures === 1) this.breaks += 1;
    this.onTrouble(error.message);
    const wait = Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures) + 1000 * (error.retryAfter ?? 0);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }

  // Goes on without the checkpoint's token, or without the request's own.
  dropToken() {
    this.checkpoint = null;
    if (this.base.token && this.base.token !== this.origin.token) {
      this.base = { ...this.origin, chars: 0, generated: 0 };
      return true;
    }
    if (this.origin.token && this.whole !== null) {
      this.origin = { token: "", prompt: this.whole };
      this.base = { ...this.origin, chars: 0, generated: 0 };
      return true;
    }
    return false;
  }

  body() {
    const own = { ...this.request, resume_token: this.base.token, prompt: this.base.prompt };
    if (this.started) {
      if (this.checkpoint) this.base = { ...this.checkpoint, prompt: "" };
      Object.assign(own, {
        resume_token: this.base.token,
        prompt: this.base.prompt,
        seed: this.started.seed ?? "0",
        max_chars: this.started.max_chars - this.base.generated,
        replica: this.started.replica,
      });
      if (this.raw.length) own.received_raw = base64Of(this.raw.slice(this.base.chars));
      else own.received = this.symbols.slice(this.base.chars).join("");
      if (own.min_chars) own.min_chars = Math.max(0, own.min_chars - this.base.generated);
    }
    if (!own.resume_token) delete own.resume_token;
    this.finish = null;
    this.asked = this.base;
    return { stream: true, logprobs: this.logprobs, charstream: own };
  }

  take(event) {
    const choice = event.choices?.[0];
    if (!choice) return;
    const own = choice.charstream ?? {};
    if (own.started) this.started ??= own.started;
    if (choice.text || own.raw) {
      this.first ||= performance.now() - this.began;
      const symbols = Array.from(choice.text);
      for (const symbol of symbols) this.symbols.push(symbol);
      if (own.raw) this.raw.push(...bytesOf(own.raw));
      const places = choice.logprobs ? placesOf(choice.logprobs, this.logprobs) : [];
      this.onPart(symbols, places);
    }
    if (own.checkpoint) {
      const generated = this.asked.generated + Number(own.checkpoint.generated_chars ?? 0);
      const chars = this.asked.chars + Number(own.checkpoint.text_chars ?? 0);
      const token = own.checkpoint.resume_token;
      if (generated < this.started.max_chars) this.checkpoint = { token, chars, generated };
      if (!this.raw.length) this.onCheckpoint?.(token, chars); // in bytes, a place may be within a character
    }
    if (own.finish) this.finish = own.finish;
  }
}
