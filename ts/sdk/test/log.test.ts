import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { ZtnaAgent, ZtnaRelay } from '../src/index.js'
import { native } from '../src/native.js'
import { type TestNetwork, createTestNetwork } from '../src/testing.js'

/** How many agents come and go: the relay says each time that a connection has ended. */
const AGENTS = 8

test('one bell calls for all the log lines that wait, and they are taken at once', async () => {
  let bells = 0
  const log = new (native().NativeLog)('debug', () => void (bells += 1))
  await using net = await twoNodes()
  await comeAndGo(net, () => {
    // Nothing of JavaScript runs while the lines are written.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500)
    expect(bells).toBe(0)
  })
  await sleep(100)
  expect(bells).toBe(1)
  const lines = JSON.parse(log.take()) as { message: string }[]
  expect(lines.filter(({ message }) => message === 'connection ended')).toHaveLength(AGENTS)
  expect(log.take()).toBe('[]')
  log.close()
})

test('a log has the lines of its own level, until it is closed', async () => {
  const log = new (native().NativeLog)('debug', () => {})
  const logs = Array.from({ length: 3 }, () => new (native().NativeLog)('error', () => {}))
  await using net = await twoNodes()
  await comeAndGo(net)
  // An error is above what was said, and another log's lines are its own.
  while (!log.take().includes('connection ended')) await sleep(20)
  for (const other of logs) expect(other.take()).toBe('[]')
  for (const each of [log, ...logs, log]) each.close()
  expect(() => log.take()).toThrow(/ERR_ZTNA_CLOSED/)
})

test('a logger that two roles share hears each line once', async () => {
  const heard: string[] = []
  const take = (_fields: object, message?: string): void => void heard.push(message ?? '')
  const logger = { debug: take, info: take, warn: take, error: take }
  await using net = await twoNodes()
  const [name = ''] = net.relays.keys()
  await net.relays.get(name)?.close({ drainMs: 0 })
  const relay = await new ZtnaRelay({ ...net.relay(name), logger, logLevel: 'debug' }).start()
  const agent = await new ZtnaAgent({ ...net.agent('alice'), logger, logLevel: 'trace' }).start()
  await agent.close({ drainMs: 0 })
  while (!heard.includes('connection ended')) await sleep(20)
  expect(heard.filter((message) => message === 'connection ended')).toHaveLength(1)
  await relay.close({ drainMs: 0 })
})

function twoNodes(): Promise<TestNetwork> {
  return createTestNetwork({ services: { web: { tcp: [80] } } })
}

/** Agents that connect and are ended; `then` runs when they have been told to, and nothing of JavaScript before. */
async function comeAndGo(net: TestNetwork, then: () => void = () => {}): Promise<void> {
  const agents = await Promise.all(Array.from({ length: AGENTS }, () => new ZtnaAgent(net.agent('alice')).start()))
  const closed = Promise.all(agents.map((agent) => agent.close({ drainMs: 0 })))
  for (let turn = 0; turn < 10; turn++) await Promise.resolve()
  then()
  await closed
}
