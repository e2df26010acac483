import { expect, test } from 'vitest'
import { describeAge, describeBytes, fit, paintFor, unpainted } from '../src/cli/style.js'
import { type TopAnswer, type TopSample, inOrder, toSample } from '../src/cli/top-sample.js'
import { type View, renderTop } from '../src/cli/top-view.js'

const NOW = Date.UTC(2026, 10, 23, 9, 0, 0)

function flow(id: number, rxBytes: number, txBytes: number, more: object = {}): NonNullable<TopAnswer['status']['flows']>[number] {
  const since = new Date(NOW - 90_000).toISOString()
  return {
    id: String(id),
    service: 'web',
    port: 80,
    protocol: 'tcp',
    peer: 'c1',
    open: true,
    path: 'relay',
    relay: 'r1',
    rxBytes,
    txBytes,
    since,
    ...more,
  }
}

function answer(at: number, flows: TopAnswer['status']['flows'], more: object = {}): TopAnswer {
  const path = { kind: 'relay', relay: 'r1', rttMs: 12.34, lossPct: 0 } as const
  const status = {
    name: 'alice',
    state: 'online',
    relays: [{ name: 'r1', state: 'online', rttMs: 0.5 }],
    connectors: [{ name: 'c1', path, pathPolicy: 'auto', flows: flows?.length ?? 0 }],
    flows: flows ?? [],
    flowsOmitted: 0,
    ...more,
  } as const
  return { role: 'agent', at, status, bytes: { rx: at * 10, tx: at } }
}

function sampleOf(flows: TopAnswer['status']['flows'], before: TopAnswer['status']['flows'] = flows, more: object = {}): TopSample {
  return toSample(answer(2_000, flows, more), answer(1_000, before), NOW)
}

const view = (o: Partial<View> = {}): View => ({ width: 100, height: 20, paint: unpainted, order: 'rate', ...o })

test('rates are bytes since the last look by the time in between, and unknown at the first', () => {
  const first = toSample(answer(1_000, [flow(1, 500, 0)]), undefined, NOW)
  expect([first.rxPerSecond, first.flows[0]?.rxPerSecond]).toEqual([null, null])
  const sample = toSample(answer(3_000, [flow(1, 2_500, 40), flow(2, 80, 0)]), answer(1_000, [flow(1, 500, 0)]), NOW)
  expect([sample.rxPerSecond, sample.txPerSecond]).toEqual([10_000, 1_000])
  expect(sample.flows.map(({ id, rxPerSecond, txPerSecond }) => [id, rxPerSecond, txPerSecond])).toEqual([
    ['1', 1_000, 20],
    ['2', 40, 0],
  ])
})

test('counters that went back give no negative rate', () => {
  expect(sampleOf([flow(1, 5, 5)], [flow(1, 900, 900)]).flows[0]).toMatchObject({ rxPerSecond: 0, txPerSecond: 0 })
})

test('flows are ordered by rate, by bytes or by age, equal ones by age', () => {
  const { flows } = sampleOf([flow(9, 100, 0), flow(10, 900, 0), flow(11, 800, 0)], [flow(9, 0, 0), flow(10, 900, 0), flow(11, 790, 0)])
  const ids = (order: View['order']): string[] => inOrder(flows, order).map(({ id }) => id)
  expect([ids('rate'), ids('bytes'), ids('age')]).toEqual([
    ['9', '11', '10'],
    ['10', '11', '9'],
    ['9', '10', '11'],
  ])
})

test('a wide terminal shows everything, aligned', () => {
  const sample = sampleOf(
    [flow(1, 2_000_000, 999), flow(22, 5, 0, { service: 'dns', port: 53, protocol: 'udp', path: 'direct', relay: undefined })],
    [],
  )
  expect(renderTop(sample, view({ height: Infinity }))).toEqual([
    'agent alice  online  2 flows  in 10 kB/s  out 1.0 kB/s  09:00:00 UTC',
    'relay r1  online  0.50 ms',
    '',
    'PEER  PATH          RTT  LOSS  FLOWS  FOR',
    'c1    relay r1  12.3 ms  0.0%      2  ',
    '',
    'SERVICE     PEER  PATH        IN/S  OUT/S      IN    OUT  AGE  ID',
    'web:80      c1    relay r1  2.0 MB  999 B  2.0 MB  999 B   1m   1',
    'dns:53/udp  c1    direct       5 B    0 B     5 B    0 B   1m  22',
  ])
})

test.each([20, 30, 44, 60, 79, 100])('%d columns are never exceeded, and the service stays', (width) => {
  const flows = Array.from({ length: 9 }, (_, at) => flow(at + 1, at * 1e9, at, { service: `a-service-with-a-long-name-${at}` }))
  const lines = renderTop(sampleOf(flows, []), view({ width, footer: 'q quit   s sort by rate, and more keys than there is room for' }))
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(width)
  expect(lines.some((line) => line.startsWith('a-ser'))).toBe(true)
})

test.each([1, 3, 8, 12, 40])('%d lines are filled and never exceeded, the footer last', (height) => {
  const flows = Array.from({ length: 60 }, (_, at) => flow(at + 1, at, at))
  const lines = renderTop(sampleOf(flows), view({ height, footer: 'q quit' }))
  expect(lines).toHaveLength(height)
  expect(lines.at(-1)).toBe('q quit')
})

test('what there is no room for is counted, also what the role left out', () => {
  const flows = Array.from({ length: 60 }, (_, at) => flow(at + 1, at, at))
  const lines = renderTop(sampleOf(flows, flows, { flowsOmitted: 1_000 }), view({ height: 20 }))
  const shown = lines.filter((line) => line.startsWith('web:80')).length
  expect(lines.at(-1)).toBe(`and ${1_060 - shown} more`)
})

test('a flow that is being opened says so, and none at all too', () => {
  expect(renderTop(sampleOf([flow(1, 0, 0, { open: false })]), view()).join('\n')).toContain('opening')
  expect(renderTop(sampleOf([]), view())).toContain('no flows')
})

test('a relay shows sessions in place of flows', () => {
  const at = (moment: number, rxBytes: number): TopAnswer => ({
    role: 'relay',
    at: moment,
    status: { name: 'r1', state: 'online', connectors: [{ name: 'c1', sessions: 1 }], agents: 1 },
    sessions: [{ id: '7', agent: 'alice', connector: 'c1', rxBytes, txBytes: 0 }],
  })
  expect(renderTop(toSample(at(2_000, 5_000), at(1_000, 0), NOW), view({ height: Infinity }))).toEqual([
    'relay r1  online  1 session  in 5.0 kB/s  out 0 B/s  09:00:00 UTC',
    '',
    'AGENT  CONNECTOR    IN/S  OUT/S      IN  OUT  ID',
    'alice  c1         5.0 kB    0 B  5.0 kB  0 B   7',
  ])
})

test('colours change nothing of the text, and are for terminals that have them', () => {
  const sample = sampleOf([flow(1, 5, 0)], [])
  const paint = paintFor({ isTTY: true }, {})
  const colored = renderTop(sample, view({ paint, footer: 'q' }))
  // eslint-disable-next-line no-control-regex -- a colour is a control sequence
  expect(colored.map((line) => line.replace(/\u001b\[\d+m/g, ''))).toEqual(renderTop(sample, view({ footer: 'q' })))
  expect(colored.join('')).toContain('\u001b[32monline\u001b[0m')
  for (const [stream, environment] of [
    [{}, {}],
    [{ isTTY: true }, { NO_COLOR: '1' }],
    [{ isTTY: true }, { TERM: 'dumb' }],
  ] as const) {
    expect(paintFor(stream, environment)('bad', 'text')).toBe('text')
  }
})

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [999.6, '1.0 kB'],
  [1_234, '1.2 kB'],
  [9_960, '10 kB'],
  [999_499, '999 kB'],
  [999_999, '1.0 MB'],
  [1.5e15, '1.5 PB'],
])('%d bytes read as %s', (bytes, text) => expect(describeBytes(bytes)).toBe(text))

test.each([
  [-5, '0s'],
  [59_999, '59s'],
  [60_000, '1m'],
  [7_200_000, '2h'],
  [200_000_000, '2d'],
])('an age of %d ms reads as %s', (ms, text) => expect(describeAge(ms)).toBe(text))

test('text is cut to its room, and can move no cursor', () => {
  expect([fit('connector', 6), fit('c1', 6), fit('ab\u001b[2J', 9), fit('abc', 1), fit('abc', 0)]).toEqual([
    'conne~',
    'c1',
    'ab?[2J',
    'a',
    '',
  ])
})
