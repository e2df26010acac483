import { Console } from 'node:console'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type LogLevel, type Logger, ZtnaAgent } from '../src/index.js'
import { say } from '../src/logger.js'
import { setNative } from '../src/native.js'
import { type TestNetwork, createTestNetwork } from '../src/testing.js'

const NOBODY = 'forbid(principal, action, resource);'
let net: TestNetwork
beforeAll(async () => {
  setNative(undefined)
  net = await createTestNetwork({ services: { web: { tcp: [80] } }, policy: NOBODY })
})
afterAll(() => net.close())

/** A life of an agent, with a denial in it. */
async function live(logger: Logger, logLevel: LogLevel = 'info'): Promise<void> {
  await using agent = await new ZtnaAgent({ ...net.agent('alice'), logger, logLevel }).start()
  await expect(agent.connect('web')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
}

function sink(): { stream: Writable; text: () => string; lines: () => Record<string, unknown>[] } {
  let text = ''
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString()
      done()
    },
  })
  const lines = (): Record<string, unknown>[] =>
    text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  return { stream, text: () => text, lines }
}

test('pino as it is gets the life of a role and its refusals, by level', async () => {
  const { stream, lines } = sink()
  await live(pino(stream))
  expect(lines()).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ level: 30, role: 'agent', msg: 'now online', prev: 'starting' }),
      expect.objectContaining({
        level: 40,
        role: 'agent',
        code: 'ERR_ZTNA_DENIED',
        service: 'web',
        decisionId: expect.any(String) as string,
      }),
      expect.objectContaining({ level: 30, role: 'agent', msg: 'now closed' }),
    ]),
  )
})

test('a child logger keeps its bindings', async () => {
  const { stream, lines } = sink()
  await live(pino(stream).child({ app: 'shop' }))
  expect(lines().length).toBeGreaterThan(3)
  expect(lines().every(({ app }) => app === 'shop')).toBe(true)
})

test('console has the message first and the fields behind it', async () => {
  const { stream, text } = sink()
  await live(new Console(stream))
  expect(text()).toMatch(/^now online \{.*prev: 'starting'/m)
  expect(text()).toContain('ERR_ZTNA_DENIED')
})

test("a message's percent signs are not taken for a console's format", () => {
  const { stream, text } = sink()
  say(new Console(stream), 'warn', { at: 1 }, 'loss of 5 %s')
  expect(text()).toContain('loss of 5 %s { at: 1 }')
})

test.each<[LogLevel, readonly string[]]>([
  ['trace', ['debug', 'error', 'info', 'warn']],
  ['info', ['info', 'warn']],
  ['warn', ['warn']],
  ['off', []],
])('a role at level %s logs nothing below it', async (level, most) => {
  const heard = new Set<string>()
  const listen = (name: string) => () => void heard.add(name)
  await live({ debug: listen('debug'), info: listen('info'), warn: listen('warn'), error: listen('error') }, level)
  expect([...heard].filter((name) => !most.includes(name))).toEqual([])
  if (level !== 'off') expect(heard).toContain('warn')
})

test('lines of the native side come with their target, and once to those who share a logger', async () => {
  const lines: { target?: string; role?: string; message: string | undefined }[] = []
  const take = (fields: object, message?: string): void => void lines.push({ ...fields, message })
  const logger = { debug: take, info: take, warn: take, error: take }
  await using other = new ZtnaAgent({ network: { ...EMPTY }, logger, logLevel: 'trace' })
  await other.start().catch(() => {})
  await live(logger, 'trace')
  await expect.poll(() => lines.some(({ target }) => target?.startsWith('ztna_core'))).toBe(true)
  expect(lines.some(({ role }) => role === 'agent')).toBe(true)
})

const EMPTY = { certPem: '', keyPem: '', caPem: '', network: { trustDomain: 'a.test', zone: 'a.internal', relays: [], services: [] } }

const BROKEN: Readonly<Record<string, () => unknown>> = {
  throws: () => {
    throw new Error('disk full')
  },
  rejects: () => Promise.reject(new Error('disk full')),
}
test.each(Object.entries(BROKEN))('a logger that %s harms nothing', async (_name, fail) => {
  const unhandled: unknown[] = []
  const take = (error: unknown): void => void unhandled.push(error)
  process.on('unhandledRejection', take).on('uncaughtException', take)
  try {
    await live({ debug: fail, info: fail, warn: fail, error: fail }, 'trace')
    await new Promise((resolve) => setTimeout(resolve, 50))
  } finally {
    process.off('unhandledRejection', take).off('uncaughtException', take)
  }
  expect(unhandled).toEqual([])
})
