// A text on the page: the prompt, what followed it, and all that is known of each character. It can go on, go on from an
// earlier place with another character, and be taken back step by step.

import { TextStream } from "./stream.js";

export const MOST_CHARS = 100_000; // of one text on the page
const CHECKPOINT_CHARS = 256;
const MOST_POINTS = 64;
const MOST_UNDOS = 50;
const MOST_KEPT = 300_000; // characters of all earlier texts

export const samplingFields = ({ temperature, topK, topP, minP, allowed }) => ({
  temperature,
  top_k: topK,
  top_p: topP,
  min_p: minP,
  ...(allowed ? { allowed } : {}),
});

export class Piece {
  constructor(model, prompt, { onChange = () => {} } = {}) {
    Object.assign(this, { model, prompt, onChange });
    this.symbols = [];
    this.bits = []; // NaN where not known
    this.tops = []; // [[symbol, logprob], ...] or null
    this.chosen = new Set(); // places of characters that a person chose
    this.points = []; // places from which the server can go on: {at, token}
    this.start = 0; // where the part begins that one request can make again
    this.settings = null; // of that part: as the form gives them, with the seed that was used
    this.started = null;
    this.finish = null;
    this.state = "empty"; // empty, writing, waiting, done, stopped, failed
    this.trouble = "";
    this.timing = null; // {first, seconds, chars} of the last part
    this.undos = [];
    this.control = null;
  }

  get text() {
    return this.symbols.join("");
  }

  get isWriting() {
    return this.state === "writing" || this.state === "waiting";
  }

  // Everything before a place: what a request for the rest has to be given.
  before(place) {
    return this.prompt + this.symbols.slice(0, place).join("");
  }

  keep() {
    const { symbols, bits, tops, chosen, points, start, settings, started, finish, timing, prompt, model, state } = this;
    const kept = { start, settings, started, finish, timing, prompt, model, state: this.isWriting ? "stopped" : state };
    const copies = { symbols: [...symbols], bits: [...bits], tops: [...tops], points: [...points] };
    this.undos.push({ ...kept, ...copies, chosen: new Set(chosen) });
    const size = () => this.undos.reduce((sum, one) => sum + one.symbols.length, 0);
    while (this.undos.length > MOST_UNDOS || (this.undos.length > 1 && size() > MOST_KEPT)) this.undos.shift();
  }

  undo() {
    const kept = this.undos.pop();
    if (!kept) return false;
    this.stop();
    this.control = null;
    this.clock = null;
    Object.assign(this, kept, { trouble: "" });
    this.onChange("whole");
    return true;
  }

  stop() {
    this.control?.abort();
  }

  cut(place) {
    for (const list of [this.symbols, this.bits, this.tops]) list.length = Math.min(list.length, place);
    this.points = this.points.filter((point) => point.at <= place);
    this.chosen = new Set([...this.chosen].filter((at) => at < place));
  }

  // Puts another symbol at a place and drops what followed.
  choose(place, symbol) {
    const known = this.tops[place]?.find(([other]) => other === symbol);
    this.cut(place);
    this.symbols.push(symbol);
    this.bits.push(known ? -known[1] / Math.LN2 : NaN);
    this.tops.push(null);
    this.chosen.add(place);
    this.start = this.symbols.length;
    this.onChange("whole");
  }

  // Writes `chars` more characters. Resolves when it ends, however that is; `state` and `trouble` tell how.
  async write(settings, chars, { again = false } = {}) {
    const from = this.symbols.length;
    const same = this.settings && JSON.stringify(plain(this.settings)) === JSON.stringify(plain(settings));
    if (!again && !(same && from > this.start)) this.start = from;
    const point = [...this.points].reverse().find(({ at }) => at <= from);
    const whole = this.before(from);
    const request = {
      model: this.model,
      prompt: point ? this.symbols.slice(point.at).join("") : whole,
      ...(point ? { resume_token: point.token } : {}),
      sampling: samplingFields(settings),
      ...(settings.seed === "" ? {} : { seed: settings.seed }),
      continuation: settings.continuation ?? 0,
      max_chars: Math.min(chars, MOST_CHARS - from),
      ...(settings.stop?.length ? { stop: settings.stop, min_chars: this.finish?.reason === "FINISH_REASON_STOP" ? 1 : 0 } : {}),
      checkpoint_chars: CHECKPOINT_CHARS,
      return_token: true,
    };
    const control = new AbortController();
    const { signal } = control;
    const stream = new TextStream(request, {
      whole,
      onPart: (symbols, places) => signal.aborted || this.grow(symbols, places),
      onTrouble: (message) => {
        if (signal.aborted) return;
        this.state = "waiting";
        this.trouble = message;
        this.onChange("state");
      },
    });
    stream.onCheckpoint = (token, chars_) => this.addPoint(from + chars_, token);
    Object.assign(this, { state: "writing", trouble: "", finish: null, control, goal: from + chars });
    this.settings = { ...settings };
    const began = performance.now();
    const timer = () => ({ first: stream.first, seconds: (performance.now() - began) / 1000, chars: this.symbols.length - from });
    this.onChange("state");
    this.clock = timer;
    try {
      const finish = await stream.run(signal);
      if (control !== this.control) return; // another one began, or it was taken back
      this.finish = finish;
      this.state = finish ? "done" : "stopped";
      if (finish?.resume_token) this.addPoint(this.symbols.length, finish.resume_token);
    } catch (error) {
      if (control !== this.control) return;
      this.state = "failed";
      this.trouble = error.message;
      this.error = error;
    }
    this.clock = null;
    this.timing = { ...timer(), breaks: stream.breaks };
    this.started = stream.started ?? this.started;
    if (stream.started) this.settings.seed = stream.started.seed ?? "0";
    this.onChange("end");
  }

  grow(symbols, places) {
    for (let number = 0; number < symbols.length; number++) {
      const place = places[number];
      this.symbols.push(symbols[number]);
      this.bits.push(place ? -place.logprob / Math.LN2 : NaN);
      this.tops.push(place ? place.top : null);
    }
    if (this.state === "waiting") this.state = "writing";
    this.trouble = "";
    this.onChange("more");
  }

  addPoint(at, token) {
    this.points.push({ at, token });
    if (this.points.length > MOST_POINTS) this.points = this.points.filter((_, number) => number % 2);
  }

  // What one request makes this text's last part of: see the permalink.
  get recipe() {
    const { seed = "", continuation = 0 } = this.settings ?? {};
    const made = this.symbols.length - this.start;
    return { given: this.before(this.start), prompt: Array.from(this.prompt).length, chars: made, seed, continuation };
  }

  get meanBits() {
    const known = this.bits.filter((bits) => !Number.isNaN(bits));
    return known.length ? known.reduce((sum, bits) => sum + bits, 0) / known.length : NaN;
  }
}

// The settings that decide a text; a seed that is left open is that of the part before.
const plain = ({ temperature, topK, topP, minP, allowed, seed, continuation }) => [
  temperature, topK, topP, minP, allowed, String(seed), continuation ?? 0,
]; // prettier-ignore
