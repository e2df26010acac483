import { spawnSync } from 'node:child_process'
import { chmodSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ask, Echo, open } from '../lib/echo.ts'
import { Operator, scrape, type Started } from '../lib/operator.ts'
import { until } from '../lib/programs.ts'
import { PERMIT_ENG } from '../lib/ztna.ts'

/** Enough that reading them takes a second and more. */
const MANY = 15_000
const CLOCK_TICKS = 100

let echo: Echo
let operator: Operator
let connector: Started
let flow: Socket
let folder: string

beforeAll(async () => {
  echo = await Echo.create()
  operator = await Operator.create({ asOwner: true })
  const all = await operator.startAll(echo.address)
  connector = all.connector
  folder = operator.lab.trust.out('connector', 'c1')
  flow = await open(all.forward)
  if ((await ask(flow, 'before')) !== 'before') throw new Error('the service does not echo')
})
afterAll(async () => {
  flow?.destroy()
  await operator?.[Symbol.asyncDispose]()
  echo?.[Symbol.dispose]()
})

test.each([
  {
    what: 'a policy that has become a FIFO',
    code: 'ERR_ZTNA_CONFIG',
    says: /policy\.cedar: is a FIFO, and only a regular file is accepted; the trust folder has been unreadable for 0 s/,
    hurt: () => {
      const policy = join(folder, 'policy.cedar')
      renameSync(policy, `${policy}.kept`)
      spawnSync('mkfifo', [policy])
      return () => {
        rmSync(policy)
        renameSync(`${policy}.kept`, policy)
      }
    },
  },
  {
    what: 'a snapshot.json that is gone',
    code: 'ERR_ZTNA_CONFIG',
    says: /snapshot\.json: is missing; the trust folder has been unreadable for 0 s/,
    hurt: () => away(join(folder, 'snapshot.json')),
  },
  {
    what: 'a folder that is gone',
    code: 'ERR_ZTNA_CONFIG',
    says: /snapshot\.json: is missing; the trust folder has been unreadable for 0 s/,
    hurt: () => away(folder),
  },
  {
    what: 'a folder that may not be read',
    code: 'ERR_ZTNA_PERMISSION',
    says: /the trust folder has been unreadable for 0 s: .*snapshot\.json: Permission denied/,
    hurt: () => {
      chmodSync(folder, 0)
      return () => chmodSync(folder, 0o700)
    },
  },
])('$what is told at once and by 503, flows go on, and all is well when it is back', async ({ code, says, hurt }) => {
  await readable()
  const from = connector.proc.mark
  const mend = hurt()
  try {
    const [line] = await connector.proc.waitFor(/^.*not reloaded: .*unreadable for 0 s.*$/, { from })
    expect(JSON.parse(line)).toMatchObject({ level: 'warn', code, message: expect.stringMatching(says) })
    const health = await scrape(connector, '/healthz')
    expect(health.status).toBe(503)
    expect(JSON.parse(health.text)).toMatchObject({ reason: expect.stringMatching(/^trust folder unreadable since /) })
    expect(await ask(flow, 'meanwhile')).toBe('meanwhile')
  } finally {
    mend()
  }
  await readable()
  // Nothing has changed: that is no news.
  expect(connector.proc.lines.slice(from).filter((l) => l.includes('"message":"reloaded"'))).toEqual([])
})

test('packets and health do not wait for a large policy, which is read on a thread of its own', async () => {
  await readable()
  const { trust } = operator.lab
  const rules = Array.from(
    { length: MANY },
    (_, n) =>
      `@id("rule-${n}")\npermit(principal in Group::"eng", action, resource == Service::"echo") when { context.port == ${n + 1_000} };\n`,
  )
  trust.setPolicy(PERMIT_ENG + rules.join(''))
  const before = { loop: cpuOf('ztna-connector'), folder: cpuOf('ztna-folder') }
  const from = connector.proc.mark
  await trust.publish([folder])
  let answers = 0
  const isTaken = (): boolean => connector.proc.lines.slice(from).some((line) => line.includes('"message":"reloaded"'))
  while (!isTaken()) {
    expect(await ask(flow, 'ping')).toBe('ping')
    expect((await scrape(connector, '/healthz')).status).toBe(200)
    answers += 1
  }
  const spent = { loop: cpuOf('ztna-connector') - before.loop, folder: cpuOf('ztna-folder') - before.folder }
  expect(answers).toBeGreaterThan(10)
  expect(spent.folder).toBeGreaterThan(0.3)
  expect(spent.loop).toBeLessThan(spent.folder / 2)
})

test('a look at the folder that does not come to its end is told, and does not hold back flows or the end', async () => {
  await readable()
  const from = connector.proc.mark
  const stopper = await operator.script('stop-thread.py', String(connector.proc.pid), 'ztna-folder')
  const [line] = await connector.proc.waitFor(/^.*not reloaded: .*reading it has not come to an end.*$/, { from, timeoutMs: 30_000 })
  expect(JSON.parse(line)).toMatchObject({ level: 'warn', code: 'ERR_ZTNA_TIMEOUT' })
  expect((await scrape(connector, '/healthz')).status).toBe(503)
  expect(await ask(flow, 'still')).toBe('still')
  connector.proc.signal('SIGHUP')
  await connector.proc.waitFor(/"level":"error".*not reloaded: .*reading it has not come to an end/, { from, timeoutMs: 30_000 })
  flow.destroy()
  connector.proc.signal('SIGTERM')
  await connector.proc.waitFor(/^\{"event":"state".*"closed"/, { from })
  // The kernel ends no process whose thread is held.
  await stopper.stop('SIGKILL')
  expect(await connector.proc.exited).toMatchObject({ code: 0 })
})

/** Renames; the call takes it back. */
function away(path: string): () => void {
  renameSync(path, `${path}.away`)
  return () => renameSync(`${path}.away`, path)
}

async function readable(): Promise<void> {
  await until('the folder can be read', async () => (await scrape(connector, '/healthz')).status === 200)
}

/** CPU seconds of the connector's thread of that name. */
function cpuOf(name: string): number {
  const tasks = `/proc/${connector.proc.pid}/task`
  for (const task of readdirSync(tasks)) {
    if (readFileSync(join(tasks, task, 'comm'), 'utf8').trim() !== name) continue
    // utime and stime, counted behind the name: proc(5).
    const fields =
      readFileSync(join(tasks, task, 'stat'), 'utf8')
        .split(') ')[1]
        ?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS
  }
  throw new Error(`no thread ${name}`)
}
