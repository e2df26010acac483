import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../lib/proc.ts'

const MODULES = fileURLToPath(new URL('../../node_modules/', import.meta.url))
const TRACED = ['@opentelemetry/api', '@opentelemetry/context-async-hooks', '@opentelemetry/sdk-trace-base']
const BODY = `
const net = await createTestNetwork({ agents: { alice: {} }, services: { echo: { tcp: [7], udp: [7] } } })
const connector = await new ZtnaConnector(net.connector('c1')).start()
await connector.serve('echo', { socket: (socket) => socket.end(String(socket.traceparent)) })
await connector.serve('echo', { udp: (socket) => socket.on('message', () => socket.send(Buffer.from(String(socket.traceparent)))) })
const agent = await new ZtnaAgent(net.agent('alice')).start()
let text = ''
for await (const chunk of await agent.connect('echo:7')) text += chunk
const udp = await agent.datagram('echo:7')
udp.send(Buffer.from('x'))
for await (const message of udp) {
  text += ' ' + Buffer.from(message)
  break
}
await net.close()
console.log(text)
`
const PROGRAMS = {
  'main.mjs': `import { ZtnaAgent, ZtnaConnector } from '@ztna/sdk'\nimport { createTestNetwork } from '@ztna/sdk/testing'\n${BODY}`,
  'main.cjs': `const { ZtnaAgent, ZtnaConnector } = require('@ztna/sdk')
const { createTestNetwork } = require('@ztna/sdk/testing')
async function main() {${BODY}}
main()`,
  // An ES module: the API has another copy of itself for those.
  'register.mjs': `import { trace } from '@opentelemetry/api'
import { BasicTracerProvider } from '@opentelemetry/sdk-trace-base'
trace.setGlobalTracerProvider(new BasicTracerProvider())`,
}

const made: string[] = []
let without: string
let withApi: string
let broken: string

beforeAll(() => {
  without = project([])
  withApi = project(TRACED)
  broken = project([])
  const api = join(broken, 'node_modules/@opentelemetry/api')
  mkdirSync(api, { recursive: true })
  writeFileSync(join(api, 'index.js'), 'throw new Error("half an installation")')
})
afterAll(() => made.forEach((dir) => rmSync(dir, { recursive: true, force: true })))

for (const main of ['main.mjs', 'main.cjs']) {
  test(`${main} without OpenTelemetry has no trace and no need of it`, async () => {
    expect(await output(without, [main])).toBe('undefined undefined')
  })

  test(`${main} with OpenTelemetry sends the context of a span to the handlers`, async () => {
    expect(await output(withApi, ['--import', './register.mjs', main])).toMatch(/^(00-[0-9a-f]{32}-[0-9a-f]{16}-01 ?){2}$/)
  })

  test(`${main} with the API alone, and nothing registered, has no trace`, async () => {
    expect(await output(withApi, [main])).toBe('undefined undefined')
  })

  test(`${main} with an API that does not load works without`, async () => {
    expect(await output(broken, [main])).toBe('undefined undefined')
  })
}

async function output(cwd: string, args: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(null, process.execPath, args, { cwd, timeoutMs: 30_000 })
  expect(stderr).toBe('')
  return stdout.trim()
}

/** A folder with the SDK as it is published, and with `extra` packages: what stands in the workspace is out of its sight. */
function project(extra: readonly string[]): string {
  const dir = mkdtempSync(join(tmpdir(), 'ztna-otel-'))
  made.push(dir)
  for (const name of ['dist', 'package.json']) {
    cpSync(join(MODULES, '@ztna/sdk', name), join(dir, 'node_modules/@ztna/sdk', name), { recursive: true, dereference: true })
  }
  for (const name of ['@ztna/native', 'undici', 'smol-toml', ...extra]) {
    const to = join(dir, 'node_modules', name)
    mkdirSync(dirname(to), { recursive: true })
    symlinkSync(join(MODULES, name), to)
  }
  for (const [name, text] of Object.entries(PROGRAMS)) writeFileSync(join(dir, name), text)
  return dir
}
