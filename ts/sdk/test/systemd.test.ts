import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { startWatchdog, tellReloading } from '../src/cli/systemd.js'
import { told, useFake } from './fake-native.js'

beforeEach(() => {
  useFake()
  vi.useFakeTimers()
})
afterEach(() => void vi.useRealTimers())

test('the watchdog hears of a role at a quarter of its period, and nothing while a packet loop hangs', () => {
  let hangs = false
  const stop = startWatchdog({ turn: (then) => void (hangs || then()) }, { WATCHDOG_USEC: '2000000', WATCHDOG_PID: `${process.pid}` })
  vi.advanceTimersByTime(1_000)
  expect(told).toEqual(['WATCHDOG=1', 'WATCHDOG=1'])
  hangs = true
  vi.advanceTimersByTime(10_000)
  expect(told).toHaveLength(2)
  hangs = false
  vi.advanceTimersByTime(500)
  expect(told).toHaveLength(3)
  stop()
  vi.advanceTimersByTime(10_000)
  expect(told).toHaveLength(3)
})

test.each([{}, { WATCHDOG_USEC: '2000000', WATCHDOG_PID: '1' }, { WATCHDOG_USEC: 'soon' }])(
  'without a watchdog of its own a role pings nobody: %j',
  (environment) => {
    startWatchdog({ turn: (then) => then() }, environment)
    vi.advanceTimersByTime(60_000)
    expect(told).toEqual([])
  },
)

test('a reload is announced with its time on the monotonic clock', () => {
  const before = process.hrtime.bigint() / 1_000n
  tellReloading()
  const [, time] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(told[0] ?? '') ?? []
  expect(BigInt(time ?? 0)).toBeGreaterThanOrEqual(before)
})
