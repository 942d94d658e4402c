// The call that makes a text, in the languages that people have.

import { hasToken, place } from "./api.js";

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const python = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

// A Python literal: JSON's surrogate pairs would be two characters there.
const literal = (text) => (/[\ud800-\udfff]/.test(text) ? JSON.stringify(text).replace(/[\u2028\u2029]/g, (char) => `\\u${char.charCodeAt(0).toString(16)}`) : python(text));

function sampling(settings) {
  const { temperature, topK, topP, minP, allowed } = settings;
  return {
    temperature,
    ...(topK ? { top_k: topK } : {}),
    ...(topP < 1 ? { top_p: topP } : {}),
    ...(minP ? { min_p: minP } : {}),
    ...(allowed ? { allowed } : {}),
  };
}

export function code(language, piece) {
  const { given, chars, seed, continuation } = piece.recipe;
  return { curl, python: client, openai, grpcurl }[language]({ given, chars: Math.max(1, chars), seed, continuation, settings: piece.settings, model: piece.version });
}

function curl({ given, chars, seed, continuation, settings, model }) {
  const { allowed, ...plain } = sampling(settings);
  const own = { ...(allowed ? { sampling: { allowed } } : {}), ...(continuation ? { continuation } : {}) };
  const fields = { model, prompt: given, max_tokens: chars, ...plain };
  const inner = JSON.stringify({ ...fields, stream: true, ...(Object.keys(own).length ? { charstream: own } : {}) });
  // The seed may be larger than JavaScript's numbers are exact.
  const body = `${inner.slice(0, -1)},"seed":${seed}}`;
  const token = hasToken() ? ` -H "Authorization: Bearer $TOKEN"` : "";
  return { text: `curl -N ${shell(place("v1/completions"))}${token} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(body)}`, hint: hasToken() ? "Put your token in TOKEN." : "Without \"stream\" the answer comes at once, whole." };
}

function arguments_(options) {
  return Object.entries(options).map(([name, value]) => `    ${name}=${typeof value === "string" ? literal(value) : value},\n`).join("");
}

function client({ given, chars, seed, continuation, settings, model }) {
  const options = { ...sampling(settings), model, max_chars: chars, ...(continuation ? { continuation } : {}) };
  const { model: name, ...rest } = options;
  const text = `from charstream.client import Client

# gRPC's address of this server; the port of this page is another one
with Client("${location.hostname}:50051") as client:
    stream = client.stream(
        ${literal(given)},
        model=${literal(name)},
${arguments_({ ...rest, seed: Number.isSafeInteger(Number(seed)) ? Number(seed) : `${seed}` })
  .replace(`seed=${literal(seed)}`, `seed=${seed}`)
  .replace(/^ {4}/gm, "        ")}    )
    for text in stream:
        print(text, end="", flush=True)
`;
  return { text, hint: "--port of charstream serve is gRPC's, 50051 unless it was set." };
}

function openai({ given, chars, seed, continuation, settings, model }) {
  const { allowed, top_k, min_p, ...plain } = sampling(settings);
  const own = { ...(allowed ? { sampling: { allowed } } : {}), ...(continuation ? { continuation } : {}) };
  const extra = { ...(top_k ? { top_k } : {}), ...(min_p ? { min_p } : {}), ...(Object.keys(own).length ? { charstream: own } : {}) };
  const body = Object.keys(extra).length ? `    extra_body=${JSON.stringify(extra)},\n` : "";
  const key = hasToken() ? 'os.environ["TOKEN"]' : '"none"';
  const text = `${hasToken() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(place("v1"))}, api_key=${key})
events = client.completions.create(
${arguments_({ model, prompt: given, max_tokens: chars, ...plain })}    seed=${seed},
    stream=True,
${body})
for event in events:
    print(event.choices[0].text, end="", flush=True)
`;
  return { text, hint: "A token is a character here: max_tokens counts characters." };
}

function grpcurl({ given, chars, seed, continuation, settings, model }) {
  const message = { model, prompt: given, max_chars: chars, seed: String(seed), sampling: sampling(settings), ...(continuation ? { continuation } : {}) };
  const plain = location.protocol === "https:" ? "" : " -plaintext";
  const token = hasToken() ? ` \\\n  -H "authorization: Bearer $TOKEN"` : "";
  return { text: `grpcurl${plain}${token} \\\n  -d ${shell(JSON.stringify(message))} \\\n  ${location.hostname}:50051 charstream.v1.TextGeneration/Generate`, hint: "The server has reflection: no .proto file is needed." };
}
