import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { type RunResult, run } from '../lib/proc.ts'

const fixture = fileURLToPath(new URL('../fixtures/lifecycle.mjs', import.meta.url))

// V8's young generation, which grows to tens of megabytes as it likes, kept at its smallest: what a process's memory gains is then what is held.
const v8 = ['--max-semi-space-size=1']

function lifecycle(...args: string[]): Promise<RunResult> {
  return run(null, process.execPath, ['--expose-gc', ...v8, fixture, ...args], { codes: 'any', timeoutMs: 110_000 })
}

/** What a case has printed last. */
function report({ code, stdout, stderr }: RunResult): unknown {
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
}

interface Held {
  readonly fds: number
  readonly threads: number
  readonly resources: Readonly<Record<string, number>>
}

for (const seed of ['1', '2', '3']) {
  test(`starts, closes, connects and aborts in any order end as they should and leave nothing (seed ${seed})`, async () => {
    const { wrong, before, after } = report(await lifecycle('random', seed, '60')) as {
      wrong: string[]
      before: Held
      after: Held
    }
    expect(wrong).toEqual([])
    expect(after).toEqual(before)
  })
}

test('a process ends in its own way with a hundred live sockets, and one that has closed its roles by itself', async () => {
  const ends: Readonly<Record<string, Partial<RunResult>>> = {
    exit: { code: 7, signal: null, stderr: '' },
    throw: { code: 1, signal: null, stderr: expect.stringContaining('Error: thrown') as string },
    SIGTERM: { code: null, signal: 'SIGTERM', stderr: '' },
    close: { code: 0, signal: null, stderr: '', stdout: '"live"\n{"left":0}\n' },
  }
  for (const [end, expected] of Object.entries(ends)) expect({ end, ...(await lifecycle('live', end)) }).toMatchObject({ end, ...expected })
})

test('ten thousand connects leave the memory, the descriptors and the listeners of a process as they were', async () => {
  type Measured = Held & {
    readonly heap: number
    readonly rss: number
    readonly listeners: number
    readonly served: number
    readonly flows: number
  }
  const { before, after } = report(await lifecycle('cycles', '10000')) as { before: Measured; after: Measured }
  const { heap, rss, ...counted } = after
  const { heap: heapBefore, rss: rssBefore, ...countedBefore } = before
  expect(counted).toEqual(countedBefore)
  expect(counted).toMatchObject({ served: 0, flows: { tcp: 0, udp: 0 } })
  // 100 bytes a connect would be a megabyte.
  expect(heap - heapBefore).toBeLessThan(1_000_000)
  // The least at the end over the most at the beginning, up to 2 MB in 30 runs: 500 bytes kept of each connect would be more.
  expect(rss - rssBefore).toBeLessThan(5_000_000)
})
