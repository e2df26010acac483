import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { run } from '../lib/proc.ts'

const fixture = fileURLToPath(new URL('../fixtures/workers.mjs', import.meta.url))

interface InUse {
  readonly fds: number
  readonly threads: number
}
interface Report {
  readonly ended: number
  readonly wrong: readonly unknown[]
  readonly first: InUse
  readonly last: InUse
}

async function workers(main: 'bare' | 'loaded' | 'running', work: 'load' | 'roles'): Promise<Report> {
  const { stdout } = await run(null, process.execPath, [fixture, main, work, '50'], { timeoutMs: 110_000 })
  return JSON.parse(stdout) as Report
}

/**
 * Descriptors of flows that 50 threads may take with them: a thread that is terminated between being given one and making a socket of it
 * leaves it to nobody. Each of them has ten flows in flight then.
 */
const LOST = 10

const leak = (report: Report): InUse => ({
  fds: Math.max(0, report.last.fds - report.first.fds),
  threads: Math.max(0, report.last.threads - report.first.threads),
})

test('fifty worker threads load the addon and end, one after the other, whoever loads it first', async () => {
  for (const main of ['bare', 'loaded'] as const) {
    const report = await workers(main, 'load')
    expect(report).toMatchObject({ ended: 50, wrong: [] })
    expect(leak(report)).toEqual({ fds: 0, threads: 0 })
  }
})

test('fifty worker threads end in every way with roles and sockets of theirs, and leave nothing', async () => {
  const report = await workers('bare', 'roles')
  expect(report).toMatchObject({ ended: 50, wrong: [] })
  expect(leak(report).threads).toBe(0)
  expect(leak(report).fds).toBeLessThan(LOST)
})

test("worker threads take neither the roles nor the logger of the main thread's, and keep their own", async () => {
  const report = await workers('running', 'roles')
  expect(report).toMatchObject({ ended: 50, wrong: [] })
  expect(leak(report).threads).toBe(0)
  expect(leak(report).fds).toBeLessThan(LOST)
})
