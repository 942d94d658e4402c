// Streams a text from a charstream server, and goes on by itself when the connection breaks.
//
//     node stream.mjs 'ROMEO:' --max-chars 400 --seed 7 --host 127.0.0.1:50051 --host 127.0.0.1:50052

import { once } from 'node:events'
import { realpathSync } from 'node:fs'
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
const PATIENCE_MS = 10_000
const FIRST_WAIT_MS = 50
const LONGEST_WAIT_MS = 1_000
// The server left, has no room, or is not one that would give the same text: another one may do.
const ELSEWHERE = new Set([grpc.status.UNAVAILABLE, grpc.status.RESOURCE_EXHAUSTED, grpc.status.FAILED_PRECONDITION])

/**
 * Yields pieces of the text; returns the server's `finish`. A call that breaks is continued at the next host.
 *
 * @param {string[]} hosts replicas, host:port
 * @param {object} request a GenerateRequest for one continuation
 */
export async function* stream(hosts, request) {
  request = { ...request, received: '' }
  let lostAt = 0
  let failures = 0
  for (let turn = 0; ; turn++) {
    const client = new TextGeneration(hosts[turn % hosts.length], grpc.credentials.createInsecure(), CHANNEL)
    const call = client.generate(request)
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

function usage() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      host: { type: 'string', multiple: true, default: ['127.0.0.1:50051'] },
      'max-chars': { type: 'string' },
      seed: { type: 'string' },
      temperature: { type: 'string' },
    },
  })
  // What is not given stays undefined, and so unset: the server decides.
  const number = (name) => (values[name] === undefined ? undefined : Number(values[name]))
  const request = {
    prompt: positionals.join(' '),
    sampling: { temperature: number('temperature') },
    max_chars: number('max-chars'),
    seed: values.seed,
  }
  return { hosts: values.host, request }
}

async function main() {
  const { hosts, request } = usage()
  const text = stream(hosts, request)
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
    process.exitCode = 1
  })
}
