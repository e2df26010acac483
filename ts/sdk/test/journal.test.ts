import { EventEmitter } from 'node:events'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { journal } from '../src/cli/journal.js'
import { LINES_IN_ALL, LINES_PER_PEER } from '../src/cli/line-budget.js'
import { ZtnaDeniedError, ZtnaError } from '../src/errors.js'
import type { Logger } from '../src/log.js'

const peer = (name: string): { id: string } => ({ id: `spiffe://example.test/agent/${name}` })
const denied = new ZtnaDeniedError('no policy permits it', 'connector')
const refused = new ZtnaError('ERR_ZTNA_REFUSED', 'refused: 127.0.0.1:1 refused the connection: is the service running?')

let lines: { level: string; message: string; fields: Record<string, unknown> }[]
let role: EventEmitter
beforeEach(() => {
  vi.useFakeTimers()
  lines = []
  const write = (level: string) => (fields: object, message?: string) =>
    void lines.push({ level, message: message ?? '', fields: fields as Record<string, unknown> })
  const logger: Logger = { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') }
  role = new EventEmitter()
  journal(role, logger)
})
afterEach(() => void vi.useRealTimers())

test('a flow that failed is told with its code, its system error, its service and who asked', () => {
  role.emit('flow-failed', refused, { id: '7', peer: peer('alice'), service: 'web', port: 80, protocol: 'tcp' })
  expect(lines).toEqual([
    {
      level: 'warn',
      message: `flow failed: ${refused.message}`,
      fields: {
        code: 'ERR_ZTNA_REFUSED',
        cause: 'ECONNREFUSED',
        flow: '7',
        peer: peer('alice').id,
        service: 'web',
        port: 80,
        protocol: 'tcp',
      },
    },
  ])
})

test('one peer gets so many lines a second about what failed or was denied, and the rest is told as a number', () => {
  for (let n = 0; n < 1_000; n += 1) {
    role.emit('denied', denied, peer('mallory'))
    role.emit('flow-failed', refused, { id: String(n), peer: peer('mallory'), service: 'web', port: 80, protocol: 'tcp' })
  }
  role.emit('denied', denied, peer('alice'))
  expect(lines).toHaveLength(LINES_PER_PEER + 1)
  expect(lines.at(-1)?.fields['peer']).toBe(peer('alice').id)
  vi.advanceTimersByTime(1_000)
  expect(lines).toHaveLength(LINES_PER_PEER + 2)
  expect(lines.at(-1)).toMatchObject({
    level: 'warn',
    message: `${2_000 - LINES_PER_PEER} lines about denied or failed flows were left out`,
    fields: { peers: [peer('mallory').id] },
  })
  role.emit('denied', denied, peer('mallory'))
  expect(lines).toHaveLength(LINES_PER_PEER + 3)
  vi.advanceTimersByTime(10_000)
  expect(lines).toHaveLength(LINES_PER_PEER + 3)
})

test('many peers together get a bounded number of lines a second', () => {
  for (let n = 0; n < 1_000; n += 1) role.emit('denied', denied, peer(`a${n}`))
  expect(lines).toHaveLength(LINES_IN_ALL)
  vi.advanceTimersByTime(1_000)
  expect(lines.at(-1)?.message).toBe(`${1_000 - LINES_IN_ALL} lines about denied or failed flows were left out`)
  expect(lines.at(-1)?.fields['peers']).toHaveLength(10)
})

test('what was left out is told when the role closes, too', () => {
  for (let n = 0; n < 20; n += 1) role.emit('denied', denied, peer('mallory'))
  role.emit('state', 'closed', 'draining')
  expect(lines.some(({ message }) => message.startsWith('10 lines about'))).toBe(true)
})

test('every snapshot that is taken leaves a line with its version', () => {
  role.emit('reloaded', { version: 7, changed: true })
  expect(lines).toEqual([{ level: 'info', message: 'reloaded', fields: { version: 7, changed: true } }])
})
