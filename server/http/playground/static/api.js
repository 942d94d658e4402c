// Calls to this server's doors. Paths are relative to the page, so that it works behind a prefix.

const TOKEN = "charstream.token"; // of this tab only: sessionStorage

export class ApiError extends Error {
  constructor(status, about, retryAfter) {
    super(about.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = about.code ?? "";
    this.param = about.param ?? null;
    this.retryAfter = retryAfter;
  }
}

// A connection that broke, or a server that went away: the same call may succeed later.
export class Lost extends Error {}

let askForToken = async () => false;

export function onTokenWanted(ask) {
  askForToken = ask;
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
}

export const hasToken = () => Boolean(sessionStorage.getItem(TOKEN));

export const place = (path) => new URL(path, document.baseURI).href;

function headers(body) {
  const token = sessionStorage.getItem(TOKEN);
  return {
    ...(body === undefined ? {} : { "Content-Type": "application/json" }),
    ...(token ? { Authorization: `Bearer ${token}` } : {}),
  };
}

async function send(path, body, signal) {
  const options = { method: body === undefined ? "GET" : "POST", headers: headers(body), signal, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(place(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Lost("the server cannot be reached");
  }
  if (answer.ok) return answer;
  const about = (await answer.json().catch(() => ({}))).error ?? {};
  if (answer.status === 502 || answer.status === 503 || answer.status === 504) {
    throw new Lost(about.message ?? `the server answered ${answer.status}`);
  }
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  throw new ApiError(answer.status, typeof about === "string" ? { message: about } : about, retryAfter);
}

// Sends a request; if a token is asked for, asks the person, and sends it once more for each token that was given.
async function call(path, body, signal) {
  for (;;) {
    const used = sessionStorage.getItem(TOKEN);
    try {
      return await send(path, body, signal);
    } catch (error) {
      const another = used !== sessionStorage.getItem(TOKEN);
      if (error.status !== 401 || !(another || (await askForToken(error.message, Boolean(used))))) throw error;
    }
  }
}

export async function getJson(path, signal) {
  return (await call(path, undefined, signal)).json();
}

export async function postJson(path, body, signal) {
  return (await call(path, body, signal)).json();
}

// Yields the values of server-sent events. Throws Lost where the connection ends before [DONE], if there is one to come.
export async function* events(path, body, signal, { done = true } = {}) {
  const answer = await call(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done: ended } = await reader.read();
      if (ended) break;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice(6));
        if (event.error) throw eventError(event.error);
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error instanceof Lost || error.name === "AbortError") throw error;
    throw new Lost("the connection broke");
  } finally {
    reader.cancel().catch(() => {});
  }
  if (done) throw new Lost("the stream ended before the text did");
}

function eventError(about) {
  if (about.code === "unavailable") return new Lost(about.message);
  return new ApiError(about.code === "wrong_replica" ? 400 : 500, about, 0);
}
