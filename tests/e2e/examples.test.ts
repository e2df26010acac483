import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Loopback } from '../lib/loopback.ts'
import { Proc, run, type RunResult } from '../lib/proc.ts'

const FOLDER = fileURLToPath(new URL('../../ts/examples/', import.meta.url))
const shown = new Set<string>()
let lab: Loopback
let relay: Proc

beforeAll(async () => {
  lab = await Loopback.create({
    services: [
      { name: 'web', connectors: ['c1'], tcp: [80] },
      { name: 'echo', connectors: ['c2'], tcp: [7], udp: [7] },
      { name: 'locked', connectors: ['c1'], tcp: [80] },
    ],
    policy: ['web', 'echo']
      .map((name) => `permit(principal in Group::"eng", action == Action::"connect", resource == Service::"${name}");\n`)
      .join(''),
  })
  relay = start('relay.mjs', 'relay-r1', [lab.relayAddress])
  await relay.waitFor(/^listening on/)
})
afterAll(async () => {
  await relay?.stop()
  lab?.[Symbol.dispose]()
})

test('connector-http greets the caller that agent-fetch, agent-forward and agent-socks5 bring by name and groups', async () => {
  await using web = start('connector-http.mjs', 'connector-c1')
  await web.waitFor(/^serving web/)
  const greeting = 'hello alice of eng\n'
  expect((await finish('agent-fetch.mjs')).stdout).toBe(`200 ${greeting}\n`)

  await using forward = start('agent-forward.mjs', 'agent-alice', ['web', '80'])
  const [, at] = await forward.waitFor(/^listening on (.*)/)
  expect((await run(null, 'curl', ['-sS', `http://${at}/`])).stdout).toBe(greeting)
  expect(await forward.stop('SIGINT')).toEqual({ code: 0, signal: null })

  await using socks = start('agent-socks5.mjs', 'agent-alice', ['0'])
  const [, port] = await socks.waitFor(/^SOCKS5 on port (\d+)/)
  const through = ['-sS', '--socks5-hostname', `127.0.0.1:${port}`]
  expect((await run(null, 'curl', [...through, 'http://web.ztna.internal/'])).stdout).toBe(greeting)
  // 97: the proxy refused. A name outside the zone is not resolved and not dialled.
  expect((await run(null, 'curl', [...through, 'http://example.com/'], { codes: [97] })).stdout).toBe('')
  expect(await socks.stop('SIGINT')).toEqual({ code: 0, signal: null })
  expect(await web.stop('SIGINT')).toEqual({ code: 0, signal: null })
})

test('agent-fetch says who refused a request, and exits 1', async () => {
  await using web = start('connector-http.mjs', 'connector-c1')
  await web.waitFor(/^serving web/)
  const denied = await finish('agent-fetch.mjs', ['http://locked.ztna.internal/'], [1])
  expect(denied.stderr).toMatch(/denied by (relay|connector)/)
  const outside = await finish('agent-fetch.mjs', ['http://example.com/'], [1])
  expect(outside.stderr).toContain('outside the zone')
})

test('connector-socket echoes the stream of agent-connect', async () => {
  await using echo = start('connector-socket.mjs', 'connector-c2')
  await echo.waitFor(/^serving echo/)
  const { stdout } = await finish('agent-connect.mjs')
  expect(stdout).toBe('connected to spiffe://example.test/connector/c2, path relay\nhello through the tunnel\n')
  await echo.waitFor(/^flow from alice/)
  expect(await echo.stop('SIGINT')).toEqual({ code: 0, signal: null })
})

test('connector-udp echoes the datagram of agent-datagram', async () => {
  await using echo = start('connector-udp.mjs', 'connector-c2')
  await echo.waitFor(/^serving echo/)
  expect((await finish('agent-datagram.mjs', ['echo:7', 'over UDP'])).stdout).toBe('over UDP\n')
  await echo.waitFor(/^flow from alice/)
  expect(await echo.stop('SIGINT')).toEqual({ code: 0, signal: null })
})

test('test-network has a direct path, a relayed one and another policy, with no trust folder and no namespace', async () => {
  const { stdout } = await finish('test-network.mjs')
  expect(stdout).toMatch(/^direct to 203\.0\.113\.\d+, round trip over 40 ms: true: hello alice\n/)
  expect(stdout).toContain('blocked, by the relay: hello alice\nanother policy: ERR_ZTNA_DENIED\n')
})

test('relay tells who met whom, and ends on an interrupt', async () => {
  await relay.waitFor(/^alice meets c1/)
  await relay.waitFor(/^alice leaves c2: /)
  expect(await relay.stop('SIGINT')).toEqual({ code: 0, signal: null })
})

test('otel prints one trace from the caller to the handler', async () => {
  const { stdout } = await finish('otel.mjs')
  expect(stdout).toBe(`order INTERNAL
  ztna connect CLIENT web c1
    ztna serve SERVER web alice
      greet INTERNAL
  ztna connect CLIENT locked ERR_ZTNA_DENIED
traces: 1
`)
})

test('every example is run here or by another examples-*.test.ts', () => {
  const others = readdirSync(import.meta.dirname).filter((name) => /^examples-.*\.test\.ts$/.test(name))
  const texts = others.map((name) => readFileSync(`${import.meta.dirname}/${name}`, 'utf8'))
  const elsewhere = texts.flatMap((text) => [...text.matchAll(/'([\w-]+\.mjs)'/g)].map(([, name]) => name))
  expect(new Set([...shown, ...elsewhere])).toEqual(new Set(readdirSync(FOLDER).filter((name) => name.endsWith('.mjs'))))
})

function start(name: string, node: string, args: readonly string[] = []): Proc {
  shown.add(name)
  return new Proc(null, process.execPath, [`${FOLDER}${name}`, ...args], { label: name, env: { ZTNA_NETWORK: `${lab.dir}/${node}` } })
}

/** Runs an example of the agent to its end, which it has to find by itself. */
function finish(name: string, args: readonly string[] = [], codes: readonly number[] = [0]): Promise<RunResult> {
  shown.add(name)
  const env = { ZTNA_NETWORK: `${lab.dir}/agent-alice` }
  return run(null, process.execPath, [`${FOLDER}${name}`, ...args], { label: name, env, codes, timeoutMs: 30_000 })
}
