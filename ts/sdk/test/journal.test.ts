import { EventEmitter } from 'node:events'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { journal } from '../src/journal.js'
import { ADMITTED, REFUSED, WARNED } from '../src/line-budget.js'
import { ZtnaDeniedError, ZtnaError } from '../src/errors.js'
import type { Logger } from '../src/logger.js'

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
  expect(lines).toHaveLength(REFUSED.perPeer + 1)
  expect(lines.at(-1)?.fields['peer']).toBe(peer('alice').id)
  vi.advanceTimersByTime(1_000)
  expect(lines).toHaveLength(REFUSED.perPeer + 2)
  expect(lines.at(-1)).toMatchObject({
    level: 'warn',
    message: `${2_000 - REFUSED.perPeer} lines about denied or failed flows were left out`,
    fields: { peers: { [peer('mallory').id]: 2_000 - REFUSED.perPeer } },
  })
  role.emit('denied', denied, peer('mallory'))
  expect(lines).toHaveLength(REFUSED.perPeer + 3)
  vi.advanceTimersByTime(10_000)
  expect(lines).toHaveLength(REFUSED.perPeer + 3)
})

test('many peers together get a bounded number of lines a second', () => {
  for (let n = 0; n < 1_000; n += 1) role.emit('denied', denied, peer(`a${n}`))
  expect(lines).toHaveLength(REFUSED.inAll)
  vi.advanceTimersByTime(1_000)
  expect(lines.at(-1)?.message).toBe(`${1_000 - REFUSED.inAll} lines about denied or failed flows were left out`)
  expect(Object.keys(lines.at(-1)?.fields['peers'] as object)).toHaveLength(11)
  expect(lines.at(-1)?.fields['peers']).toMatchObject({ others: 1_000 - REFUSED.inAll - 10 })
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

test('what was admitted is told line by line up to a burst, and then as a number for each peer', () => {
  const open = (name: string): boolean => role.emit('flow', { id: '1', peer: peer(name), service: 'web', protocol: 'tcp' })
  for (let n = 0; n < 500; n += 1) open('mallory')
  open('alice')
  expect(lines).toHaveLength((ADMITTED.burst ?? 0) + 1)
  vi.advanceTimersByTime(1_000)
  expect(lines.at(-1)).toMatchObject({
    message: '200 lines `flow admitted` were left out',
    fields: { peers: { [peer('mallory').id]: 200 } },
  })
  lines.length = 0
  for (let n = 0; n < 500; n += 1) open('mallory')
  expect(lines).toHaveLength(ADMITTED.perPeer)
  vi.advanceTimersByTime(10_000)
  lines.length = 0
  for (let n = 0; n < 500; n += 1) open('mallory')
  expect(lines).toHaveLength(ADMITTED.burst ?? 0)
})

test("sessions of one agent that come and go fill no log, and leave another agent's lines alone", () => {
  for (let n = 0; n < 20_000; n += 1) {
    role.emit('session', { id: String(n), agent: 'mallory', connector: 'c1' })
    role.emit('session-end', { id: String(n), agent: 'mallory', connector: 'c1' }, 'reset')
  }
  role.emit('session', { id: 'x', agent: 'alice', connector: 'c1' })
  expect(lines).toHaveLength(2 * (ADMITTED.burst ?? 0) + 1)
  expect(lines.at(-1)?.fields['agent']).toBe('alice')
  vi.advanceTimersByTime(1_000)
  const told = lines.filter(({ level }) => level === 'warn').map(({ message }) => message)
  expect(told).toEqual(['19700 lines `session begun` were left out', '19700 lines `session ended` were left out'])
})

test('warnings of one wording are few, whatever their numbers, and those about the unproven fewer', () => {
  const warn = (text: string): boolean => role.emit('warning', new ZtnaError('ERR_ZTNA_LIMIT', text))
  for (let n = 0; n < 1_000; n += 1) {
    warn(`limit reached: a peer that has not proven itself made its connection hold ${n} bytes, where 65536 are allowed: it was closed`)
    warn(`limit reached: \`mallory\` made its connection hold ${n} bytes, where 65536 are allowed: it was closed`)
  }
  warn('limit reached: `bob` has 256 connections here; more are refused')
  expect(lines).toHaveLength(1 + WARNED.perPeer + 1)
  vi.advanceTimersByTime(1_000)
  expect(lines.map(({ message }) => message)).toEqual(
    expect.arrayContaining(['990 warnings were left out', '999 warnings about peers that have not proven themselves were left out']),
  )
})
