import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { postgres, redis } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

let t: Topology
let alice: Netns
let bin: string
const PG = ['-h', '127.0.0.1', '-p', '5432', '-U', 'postgres']

beforeAll(async () => {
  t = await Topology.create({
    services: [
      { name: 'db', tcp: [5432] },
      { name: 'cache', tcp: [6379] },
    ],
  })
  alice = t.place('alice')
  const c1 = t.place('c1')
  bin = (await postgres(c1, 15432)).bin
  await redis(c1, 16379)
  await t.start(
    ['db=tcp:5432:127.0.0.1:15432', 'cache=tcp:6379:127.0.0.1:16379'],
    ['tcp:127.0.0.1:5432=db:5432', 'tcp:127.0.0.1:6379=cache:6379'],
  )
})
afterAll(() => t?.[Symbol.asyncDispose]())

const sql = async (query: string): Promise<string> =>
  (await alice.run('psql', [...PG, '-At', '-v', 'ON_ERROR_STOP=1', '-c', query], { timeoutMs: 90_000 })).stdout.trim()

test('pgbench runs through the tunnel and its books balance', async () => {
  await alice.run(`${bin}/pgbench`, [...PG, '-i', '-q', '-s', '2', 'postgres'], { timeoutMs: 90_000 })
  const { stdout } = await alice.run(`${bin}/pgbench`, [...PG, '-c', '8', '-j', '2', '-T', '8', 'postgres'], { timeoutMs: 60_000 })
  expect(stdout).toMatch(/number of failed transactions: 0 /)
  expect(Number(/actually processed: (\d+)/.exec(stdout)?.[1])).toBeGreaterThan(100)
  const sums = await sql(
    'select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history)',
  )
  expect(new Set(sums.split('|')).size).toBe(1)
})

test('a COPY of two million rows in and out is unchanged', async () => {
  await sql('create table big (n bigint, text text)')
  const rows = 2_000_000
  const make = `seq 1 ${rows} | awk '{ print $1 "\\t" $1 "-the-quick-brown-fox-jumps-over-the-lazy-dog" }'`
  const psql = `psql ${PG.join(' ')} -q -v ON_ERROR_STOP=1 -c`
  await alice.run('bash', ['-c', `set -o pipefail; ${make} | ${psql} 'copy big from stdin'`], { timeoutMs: 110_000 })
  expect(await sql('select count(*), sum(n) from big')).toBe(`${rows}|${(rows * (rows + 1)) / 2}`)
  const { stdout } = await alice.run(
    'bash',
    ['-c', `set -o pipefail; cmp <(${make}) <(${psql} 'copy (select * from big order by n) to stdout') && echo same`],
    { timeoutMs: 110_000 },
  )
  expect(stdout.trim()).toBe('same')
})

test('redis-benchmark gets every answer, pipelined and with large values', async () => {
  for (const args of [
    ['-n', '20000', '-c', '50', '-t', 'set,get,lpush'],
    ['-n', '50000', '-c', '20', '-P', '16', '-t', 'get'],
    ['-n', '200', '-c', '4', '-d', '1000000', '-t', 'set,get'],
  ]) {
    const { stdout } = await alice.run('redis-benchmark', ['-h', '127.0.0.1', '-p', '6379', '--csv', ...args], { timeoutMs: 90_000 })
    const rates = [...stdout.matchAll(/^"(?:SET|GET|LPUSH)[^"]*","([\d.]+)"/gm)].map((match) => Number(match[1]))
    expect(rates.length).toBeGreaterThan(0)
    for (const rate of rates) expect(rate).toBeGreaterThan(0)
  }
  const { stdout } = await alice.run('redis-cli', ['-h', '127.0.0.1', '-p', '6379', 'llen', 'mylist'])
  expect(Number(stdout)).toBe(20_000)
})
