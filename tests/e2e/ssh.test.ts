import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { bigFile, sha256, sshd } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

let t: Topology
let alice: Netns
let options: readonly string[]

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'ssh', tcp: [22] }] })
  alice = t.place('alice')
  options = (await sshd(t.place('c1'), 2222)).client
  await t.start(['ssh=tcp:22:127.0.0.1:2222'], ['tcp:127.0.0.1:2222=ssh:22'])
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('scp carries 256 MB there and back unchanged', async () => {
  const { dir } = t.lab
  const sum = await bigFile(`${dir}/file`, 256_000_000)
  await alice.run('scp', [...options, '-P', '2222', `${dir}/file`, `root@127.0.0.1:${dir}/there`], { timeoutMs: 100_000 })
  expect(await sha256(`${dir}/there`)).toBe(sum)
  await alice.run('scp', [...options, '-P', '2222', `root@127.0.0.1:${dir}/there`, `${dir}/back`], { timeoutMs: 100_000 })
  expect(await sha256(`${dir}/back`)).toBe(sum)
})

test("twenty sessions at once each run their own command in the connector's namespace", async () => {
  const there = (await t.place('c1').run('readlink', ['/proc/self/ns/net'])).stdout.trim()
  const sessions = Array.from({ length: 20 }, async (_, i) => {
    const { stdout } = await alice.run('ssh', [...options, '-p', '2222', 'root@127.0.0.1', `echo ${i}; readlink /proc/self/ns/net`])
    return stdout.trim().split('\n')
  })
  expect(await Promise.all(sessions)).toEqual(Array.from({ length: 20 }, (_, i) => [String(i), there]))
})

test("a command's input, output and exit code pass through the half close", async () => {
  const { stdout, code } = await alice.run('ssh', [...options, '-p', '2222', 'root@127.0.0.1', 'wc -c; exit 42'], {
    input: 'x'.repeat(1_000_000),
    codes: [42],
  })
  expect({ stdout: stdout.trim(), code }).toEqual({ stdout: '1000000', code: 42 })
})
