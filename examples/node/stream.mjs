// Streams a text from a charstream server, and goes on by itself when the connection breaks.
//
//     node stream.mjs 'ROMEO:' --max-chars 400 --seed 7 --host 127.0.0.1:50051 --host 127.0.0.1:50052

import { once } from 'node:events'
import { readFileSync, realpathSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const PROTO = fileURLToPath(new URL('../../protos/charstream.proto', import.meta.url))
// A seed has 64 bits, more than a number of JavaScript: it stays a string, from `started` back into the request.
const definition = loader.loadSync(PROTO, { keepCase: true, longs: String, enums: String })
const { TextGeneration } = grpc.loadPackageDefinition(definition).charstream.v1

// A server that vanishes without closing its connection is noticed during a call.
const CHANNEL = { 'grpc.keepalive_time_ms': 20_000, 'grpc.keepalive_timeout_ms': 10_000 }
// A proxy is for other machines: to this one it would carry the token off the machine.
const NEAR = /^(unix:.*|(localhost|127\.[\d.]+|\[::1\])(:\d+)?)$/
const PORT = 50051
const PATIENCE_MS = 10_000
const FIRST_WAIT_MS = 50
const LONGEST_WAIT_MS = 1_000
// The server left, has no room, or is not one that would give the same text: another one may do.
const ELSEWHERE = new Set([grpc.status.UNAVAILABLE, grpc.status.RESOURCE_EXHAUSTED, grpc.status.FAILED_PRECONDITION])

/**
 * Yields pieces of the text; returns the server's `finish`. A call that breaks is continued at the next host.
 *
 * @param {string[]} hosts replicas, host:port, or host for port 50051
 * @param {object} request a GenerateRequest for one continuation
 * @param {object} [access] `credentials`, as grpc.credentials makes them, for TLS; `token`, the caller's, which is sent
 *   in the clear without TLS
 */
export async function* stream(hosts, request, { credentials = grpc.credentials.createInsecure(), token } = {}) {
  request = { ...request, received: '' }
  const metadata = new grpc.Metadata()
  if (token) metadata.set('authorization', `Bearer ${token}`)
  let lostAt = 0
  let failures = 0
  for (let turn = 0; ; turn++) {
    const host = hosts[turn % hosts.length]
    const options = NEAR.test(host) ? { ...CHANNEL, 'grpc.enable_http_proxy': 0 } : CHANNEL
    const client = new TextGeneration(withPort(host), credentials, options)
    const call = client.generate(request, metadata)
    let finish = null
    let problem = new Error('the stream ended without saying how')
    try {
      for await (const message of call) {
        // What the server chose where the request left it open: with it any replica gives the same text.
        if (message.started) request = { ...request, ...message.started }
        finish = message.finish ?? finish
        lostAt = failures = 0
        if (message.text) {
          request.received += message.text
          yield message.text
        }
      }
    } catch (error) {
      problem = error
      if (!ELSEWHERE.has(error.code)) throw error
    } finally {
      call.cancel() // where the caller of this function left the loop
      client.close()
    }
    // A server that shuts down ends its texts with DRAINED: they go on elsewhere.
    if (finish && finish.reason !== 'FINISH_REASON_DRAINED') return finish
    lostAt ||= Date.now()
    const wait = Math.min(FIRST_WAIT_MS * 2 ** failures++, LONGEST_WAIT_MS)
    if (Date.now() + wait > lostAt + PATIENCE_MS) throw problem
    await sleep(wait)
  }
}

/** A host without a port has the servers' own, not gRPC's 443. */
function withPort(host) {
  const isBare = /^([^:/[\]]+|\[[^\]]*\])$/.test(host)
  return isBare ? `${host}:${PORT}` : host
}

const OPTIONS = {
  host: { type: 'string', multiple: true, default: ['127.0.0.1:50051'] },
  model: { type: 'string' },
  'max-chars': { type: 'string' },
  temperature: { type: 'string' },
  seed: { type: 'string' },
  stop: { type: 'string', multiple: true },
  tls: { type: 'boolean' },
  'tls-ca': { type: 'string' },
  help: { type: 'boolean', short: 'h' },
}

const HELP = `usage: node stream.mjs [PROMPT] [flags]

Streams the characters that follow PROMPT to stdout, and how the text ended to stderr.

  --host HOST:PORT   a server, or HOST for port 50051; given several times, a text goes on at the next one
                     (default: 127.0.0.1:50051)
  --model NAME       NAME or NAME@VERSION of the model; or the variable CHARSTREAM_MODEL
  --max-chars N      most characters to generate (default: the server's)
  --temperature X    below 1 safer, above 1 wilder, 0 always the most probable character (default: 1)
  --seed N           same seed, same text (default: a random one, which is printed)
  --stop TEXT        the text ends before it; may be given several times
  --tls              TLS, with the certificate authorities that come with Node.js
  --tls-ca FILE      TLS, with the certificate authorities in this PEM file
  --help             print this, and end

The variable CHARSTREAM_TOKEN has the caller's token; no flag takes it, as everybody on a machine can read those.`

/** Wrong usage ends with exit code 2, what failed with 1. */
function refuse(reason) {
  throw Object.assign(new Error(reason), { exitCode: 2 })
}

/** Reads the command line. What is not given stays undefined, and so unset: the server decides. */
function readCommand() {
  const { values, positionals } = parse()
  const isWeb = (host) => /^(?!dns:)[a-z]+:\/\//.test(host)
  for (const host of values.host.filter(isWeb)) refuse(`--host: ${host}: host:port is expected; TLS is --tls or --tls-ca`)
  const token = process.env.CHARSTREAM_TOKEN
  const credentials = secured(values)
  const far = values.host.find((host) => !NEAR.test(host))
  if (token && far && !credentials) refuse(`anybody on the way to ${far} could read the token: give --tls or --tls-ca`)
  const request = {
    prompt: positionals.join(' '),
    model: values.model ?? process.env.CHARSTREAM_MODEL,
    sampling: { temperature: number(values, 'temperature') },
    max_chars: number(values, 'max-chars'),
    seed: values.seed,
    stop: values.stop,
  }
  return { hosts: values.host, request, access: { credentials, token }, help: values.help }
}

function parse() {
  try {
    return parseArgs({ allowPositionals: true, options: OPTIONS })
  } catch (error) {
    return refuse(`${error.message}; see --help`)
  }
}

function number(values, name) {
  const given = values[name]
  if (given === undefined) return undefined
  if (!given.trim() || !Number.isFinite(Number(given))) refuse(`--${name}: ${given} is no number`)
  return Number(given)
}

function secured(values) {
  if (!values.tls && !values['tls-ca']) return undefined
  try {
    return grpc.credentials.createSsl(values['tls-ca'] && readFileSync(values['tls-ca']))
  } catch (error) {
    return refuse(`--tls-ca: ${error.message}`)
  }
}

async function main() {
  const { hosts, request, access, help } = readCommand()
  if (help) return console.log(HELP)
  const text = stream(hosts, request, access)
  for (;;) {
    const { value, done } = await text.next()
    if (done) return console.error(`\n${value.generated_chars} characters, seed ${value.seed}`)
    if (!process.stdout.write(value)) await once(process.stdout, 'drain')
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.stdout.on('error', () => process.exit()) // its reader left
  main().catch((error) => {
    console.error(`stream: ${error.details || error.message}`)
    process.exitCode = error.exitCode ?? 1
  })
}
