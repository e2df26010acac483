import { expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { bigFile, nginx } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

const SERVICES = ['web=tcp:80:127.0.0.1:8080']
const FORWARDS = ['tcp:127.0.0.1:8080=web:80']
const FILE = 10_000_000

/** Three roles with a file to fetch. A burst that its sender's kernel was handed as a whole crosses a veth pair as one packet. */
async function fetching(args: readonly string[] = []): Promise<Topology & { fetch(): Promise<string>; sum: string }> {
  const t = await Topology.create({ services: [{ name: 'web', tcp: [80] }], relayArgs: args })
  try {
    const { root } = await nginx(t.place('c1'), 8080)
    const sum = await bigFile(`${root}/file`, FILE)
    await t.relay().online()
    await t.connector(SERVICES, 'c1', args).online()
    await t.agent(FORWARDS, 'alice', args).online()
    const fetch = async (): Promise<string> => {
      const command = 'set -o pipefail; curl -sSf --max-time 30 http://127.0.0.1:8080/file | openssl dgst -sha256 -r'
      const { stdout } = await t.place('alice').run('bash', ['-c', command], { timeoutMs: 40_000 })
      return stdout.split(' ')[0] ?? ''
    }
    return Object.assign(t, { fetch, sum })
  } catch (error) {
    await t[Symbol.asyncDispose]()
    throw error
  }
}

/** Counts the bursts that arrive at a place, of one sender or any, and lets them pass or not. */
async function watchBursts(at: Netns, verdict: 'accept' | 'drop', from?: string): Promise<() => Promise<number>> {
  const which = `${from === undefined ? '' : `ip saddr ${from} `}meta l4proto udp meta length > 1500`
  const rules = `table inet bursts {\nchain arriving {\ntype filter hook prerouting priority -300;\n${which} counter ${verdict}\n}\n}\n`
  await at.run('nft', ['-f', '-'], { input: rules })
  return async () => {
    const { stdout } = await at.run('nft', ['list', 'table', 'inet', 'bursts'])
    return Number(/counter packets (\d+)/.exec(stdout)?.[1])
  }
}

const places = ['alice', 'c1', 'r1'] as const

test.each([
  ['by default packets leave in bursts', [], true],
  ['with --no-segmentation-offload no role sends a burst', ['--no-segmentation-offload'], false],
] as const)('%s', async (_, args, bursts) => {
  await using t = await fetching(args)
  const counts = await Promise.all(places.map((name) => watchBursts(t.place(name), 'accept')))
  expect(await t.fetch()).toBe(t.sum)
  const seen = await Promise.all(counts.map((count) => count()))
  expect(seen.some((n) => n > 0)).toBe(bursts)
})

test.each([
  ['the connector', 'r1'],
  ['the relay', 'alice'],
] as const)('a file arrives where no burst of %s does', async (_, at) => {
  await using t = await fetching()
  const count = await watchBursts(t.place(at), 'drop', at === 'r1' ? t.address('c1') : undefined)
  expect(await t.fetch()).toBe(t.sum)
  expect(await count()).toBeGreaterThan(0)
})
