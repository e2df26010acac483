import { readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { Homes, type Home } from '../lib/homes.ts'
import { curl } from '../lib/peers.ts'
import { run } from '../lib/proc.ts'
import { bigFile, nginx, until } from '../lib/programs.ts'
import type { Filtering, Mapping } from '../lib/net.ts'
import type { PathExplanation } from '@ztna/sdk'

const SERVICES = [{ name: 'web', tcp: [80] }] as const

function nat(mapping: Mapping, filtering: Filtering): Home {
  return { v4: { nat: { mapping, filtering } } }
}

/** Neighbouring ports for neighbouring sockets: guesses hit it with certainty. */
const HARD: Home = { v4: { nat: { mapping: 'apdm', filtering: 'apdf', ports: 'sequential' } } }
const EASY = nat('eim', 'apdf')

async function homes(alice: Home, c1: Home, flags: Parameters<Homes['start']>[2] = {}): Promise<Homes & { web: { root: string } }> {
  const h = await Homes.create({ alice, c1, services: SERVICES, relay: { delay: '10ms' } })
  try {
    const web = await nginx(h.place('c1'), 8080)
    await h.start(['web=tcp:80:127.0.0.1:8080'], ['tcp:127.0.0.1:8080=web:80'], flags)
    return Object.assign(h, { web })
  } catch (error) {
    await h[Symbol.asyncDispose]()
    throw error
  }
}

test('two homes behind ordinary NATs talk directly, and a file that begins over the relay ends unchanged on the direct path', async () => {
  await using h = await homes(nat('eim', 'apdf'), nat('eim', 'apdf'))
  const sum = await bigFile(`${h.web.root}/file`, 100_000_000)
  const { stdout } = await h
    .place('alice')
    .run('bash', ['-c', 'set -o pipefail; curl -sSf http://127.0.0.1:8080/file | openssl dgst -sha256 -r'], {
      timeoutMs: 60_000,
    })
  expect(stdout.split(' ')[0]).toBe(sum)
  expect(await h.path()).toBe('direct')
})

test('two homes behind hard NATs stay on the relay', async () => {
  await using h = await homes(nat('apdm', 'apdf'), nat('apdm', 'apdf'))
  expect((await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  expect(await h.path()).toBe('relay')
})

test.for(['alice', 'c1'])('a hard NAT in front of %s is met by a port burst, and one socket of it stays', async (hard) => {
  await using h = await homes(hard === 'alice' ? HARD : EASY, hard === 'alice' ? EASY : HARD)
  const { pid } = h.running(hard).proc
  const sum = await bigFile(`${h.web.root}/file`, 20_000_000)
  const before = descriptors(pid)
  await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')
  await h.becomes('direct')
  await until('the other sockets are closed', () => descriptors(pid) <= before + 5, 5_000)
  const { stdout } = await h
    .place('alice')
    .run('bash', ['-c', 'set -o pipefail; curl -sSf http://127.0.0.1:8080/file | openssl dgst -sha256 -r'], { timeoutMs: 60_000 })
  expect(stdout.split(' ')[0]).toBe(sum)
  expect(await h.path()).toBe('direct')
})

test('with few file descriptors a port burst makes do with fewer sockets', async () => {
  await using h = await homes(HARD, EASY)
  const { pid } = h.running('alice').proc
  // Half of them are for flows: 256 sockets are too many for the other half, 128 are not.
  await run(null, 'prlimit', [`--pid=${pid}`, `--nofile=${2 * (descriptors(pid) + 230)}`])
  await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')
  await h.becomes('direct')
  expect(h.running('alice').proc.tail()).toContain('no more UDP sockets')
})

test('no port is guessed where the other end is metered, and explain says so', async () => {
  await using h = await homes(HARD, EASY, { c1: ['--metered'] })
  await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')
  const explain = async (): Promise<PathExplanation> => (await h.running('alice').ask('explain', 'web')) as unknown as PathExplanation
  await until('the refusal is known', async () => (await explain()).reasons.some(({ code }) => code === 'hard-nat-one'), 15_000)
  const told = await explain()
  expect(told.path.kind).toBe('relay')
  expect(told.reasons).toContainEqual({
    code: 'hard-nat-one',
    detail: expect.stringContaining('the network at the other end is set as metered') as string,
    remedy: 'set metered = false at that end, if it is not',
  })
})

test('a direct path that dies under a transfer is left for the relay, and the file arrives unchanged', async () => {
  await using h = await homes(nat('eim', 'apdf'), nat('eim', 'apdf'))
  await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')
  await h.becomes('direct')
  const sum = await bigFile(`${h.web.root}/file`, 200_000_000)
  const transfer = h
    .place('alice')
    .run('bash', ['-c', 'set -o pipefail; curl -sSf --limit-rate 40M http://127.0.0.1:8080/file | openssl dgst -sha256 -r'], {
      timeoutMs: 120_000,
    })
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  await h.net.block('home-alice', { allExcept: ['198.51.100.1:4433', '198.51.100.1:4434'] })
  await h.becomes('relay', 3_000)
  expect((await transfer).stdout.split(' ')[0]).toBe(sum)
})

test('explain names the hard NATs on both sides, what was tried and what helps', async () => {
  await using h = await homes(nat('apdm', 'apdf'), nat('apdm', 'apdf'))
  await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')
  await new Promise((resolve) => setTimeout(resolve, 12_000))
  const told = (await h.running('alice').ask('explain', 'web')) as unknown as PathExplanation
  expect(told.path.kind).toBe('relay')
  expect(told.nat).toEqual({ local: 'address-and-port-dependent', remote: 'address-and-port-dependent' })
  expect(told.reasons).toContainEqual(expect.objectContaining({ code: 'hard-nat-both', remedy: expect.stringContaining('UPnP') as string }))
  expect(told.checks).toContainEqual(
    expect.objectContaining({ remote: expect.stringMatching(/^203\.0\.113\.2:/) as string, result: 'timeout' }),
  )
  expect(told.checks).toContainEqual(expect.objectContaining({ local: expect.stringMatching(/^203\.0\.113\.1:/) as string, remote: 'c1' }))
})

function descriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}
