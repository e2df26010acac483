import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildMasque, hasGo, masque, pairOf, type MasqueRequest, type MasqueResult } from '../../lib/masque.ts'
import type { KeyPair } from '../../lib/forge.ts'
import { udpEcho } from '../../lib/peers.ts'
import { Topology } from '../../lib/topology.ts'

const ECHO = { target: 'echo.ztna.internal:7', udp: 'ping' } as const

// What the seed asks of its private framing, asked of capsules, context IDs and HTTP/3. A case passes when the peer's answer is
// right, and the relay then serves the next client: a crash or a wedge fails it.
describe.runIf(hasGo)('the relay', () => {
  let t: Topology
  let program: string
  let alice: KeyPair
  const ask = (request: Partial<MasqueRequest>): Promise<MasqueResult> => masque(t, program, { outer: alice, ...request })
  const serves = async (): Promise<void> => expect(await ask(ECHO)).toMatchObject({ stage: 'flow', status: 200, body: 'ping' })

  beforeAll(async () => {
    program = await buildMasque()
    t = await Topology.create({ services: [{ name: 'echo', udp: [7] }] })
    await udpEcho(t.place('c1'), '127.0.0.1:7')
    await t.relay().online()
    await t.connector(['echo=udp:7:127.0.0.1:7']).online()
    alice = pairOf(t.trust.out('agent', 'alice'))
  })
  afterAll(() => t?.[Symbol.asyncDispose]())

  test('answers the right ALPN', async () => {
    await serves()
  })

  test('refuses another ALPN', async () => {
    const { error } = await ask({ alpn: 'ztna-1' })
    expect(error).toMatch(/protocol|0x178|alert/i)
    await serves()
  })

  test('acknowledges a registration with 200', async () => {
    expect(await ask({})).toMatchObject({ stage: 'outer', status: 200 })
  })

  test('shows a connector that has registered', async () => {
    const status = await t.relays.get('r1')?.status()
    expect(status?.['connectors']).toMatchObject([{ name: 'c1' }])
  })

  test.each([
    ['an empty name', '/.well-known/masque/udp//443/'],
    ['an over-long name', `/.well-known/masque/udp/${'a'.repeat(300)}.connector.example.test/443/`],
    ["a name that is no connector's", '/.well-known/masque/udp/192.0.2.1/443/'],
    ['a port that is none', '/.well-known/masque/udp/c1.connector.example.test/99999/'],
    ['a path that is no template', '/something/else'],
  ])('refuses %s', async (_, path) => {
    const { status } = await ask({ path })
    expect([400, 403, 404]).toContain(status)
    await serves()
  })

  test.each([
    ['a capsule of unknown type (skipped, RFC 9297 section 3.2)', { capsule: '800faced03616263' }],
    ['two capsules of unknown type in one write', { capsule: '800faced0161800faced0162' }],
    ['a datagram of a context nobody registered', { datagram: '3f6869' }],
    ['a datagram of 0 bytes of payload', { datagram: '00' }],
    ['a datagram of 1 byte of payload', { datagram: '0001' }],
  ] as const)('passes over %s on a session that goes on', async (_, bytes) => {
    expect(await ask({ ...bytes, ...ECHO })).toMatchObject({ stage: 'flow', status: 200, body: 'ping' })
  })

  test.each([
    ['a capsule whose length is cut short', { capsule: '80' }],
    ['a capsule that claims 2^62-1 bytes', { capsule: `800facedffffffffffffffff${'00'.repeat(64)}` }],
    ['a REGISTER_CID of wrong length', { capsule: '8029c5a201ff' }],
    ['a datagram of no bytes, not even a context', { datagram: 'c0' }],
  ] as const)('survives %s', async (_, bytes) => {
    await ask(bytes)
    await serves()
  })

  test('does not echo, on a UDP flow, a packet that is no datagram of context 0', async () => {
    // ECHO's own datagram is the only one that comes back.
    expect(await ask({ datagram: '02450000140000000040010000', ...ECHO })).toMatchObject({ body: 'ping' })
  })
})
