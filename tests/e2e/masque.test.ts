import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Forge, type Forgery, type KeyPair } from '../lib/forge.ts'
import { buildMasque, hasGo, masque, pairOf, type MasqueRequest, type MasqueResult } from '../lib/masque.ts'
import { udpEcho } from '../lib/peers.ts'
import { nginx, until } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

const WEB = 'web.ztna.internal:80'
const ALICE = 'spiffe://example.test/agent/alice'
const POLICY = `
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"web") when { context.protocol == "tcp" && context.port == 80 };
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"echo");
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"broken") when { context.port * 9223372036854775807 > 0 };
permit(principal == Agent::"bob", action == Action::"connect", resource == Service::"hidden");
`

// A client that is not ours, so that nothing it does wrong is stopped before it leaves. Written in Go: where go is missing these
// tests are left out, and the Rust tests of trust and quic try the same certificates against both servers.
describe.runIf(hasGo)('a MASQUE client that knows only the RFCs', () => {
  let t: Topology
  let program: string
  let alice: KeyPair
  let own: Forge
  let stranger: Forge
  const ask = (request: MasqueRequest): Promise<MasqueResult> => masque(t, program, request)
  const bind = { path: '/.well-known/masque/udp/%2A/%2A/', headers: ['connect-udp-bind: ?1'] }

  beforeAll(async () => {
    program = await buildMasque()
    t = await Topology.create({
      connectors: ['c1', 'c2', 'c3'],
      agents: [
        { name: 'alice', groups: ['eng'] },
        { name: 'bob', groups: [] },
        { name: 'mallory', groups: ['eng'] },
      ],
      policy: POLICY,
      services: [
        { name: 'web', tcp: [80, 81], udp: [80], connectors: ['c1'] },
        { name: 'echo', udp: [7], connectors: ['c1'] },
        { name: 'broken', tcp: [80], connectors: ['c1'] },
        { name: 'hidden', tcp: [80], connectors: ['c2'] },
        { name: 'asleep', tcp: [80], connectors: ['c3'] },
      ],
    })
    const c1 = t.place('c1')
    await nginx(c1, 8080)
    await udpEcho(c1, '127.0.0.1:7')
    await t.relay().online()
    await t
      .connector(['web=tcp:80-81:127.0.0.1:8080', 'web=udp:80:127.0.0.1:7', 'echo=udp:7:127.0.0.1:7', 'broken=tcp:80:127.0.0.1:8080'])
      .online()
    await t.connector(['hidden=tcp:80:127.0.0.1:8080'], 'c2').online()
    alice = pairOf(t.trust.out('agent', 'alice'))
    own = Forge.ofTrustFolder(t.trust.dir, join(t.lab.dir, 'own'))
    stranger = await Forge.ofStranger(join(t.lab.dir, 'stranger'))
  })
  afterAll(() => t?.[Symbol.asyncDispose]())

  test('fetches a page over CONNECT inside CONNECT-UDP', async () => {
    expect(await ask({ outer: alice, target: WEB, get: '/hello' })).toMatchObject({ stage: 'flow', status: 200, body: 'hello\n' })
  })

  test('gets a datagram back over CONNECT-UDP inside CONNECT-UDP', async () => {
    expect(await ask({ outer: alice, target: 'echo.ztna.internal:7', udp: 'ping' })).toMatchObject({
      stage: 'flow',
      status: 200,
      body: 'ping',
    })
  })

  test('is refused by the relay without h3 in its ALPN', async () => {
    expect(await ask({ outer: alice, alpn: 'h2' })).toMatchObject({
      stage: 'outer',
      error: expect.stringMatching(/protocol|alert|0x178/i) as string,
    })
  })

  const good: Forgery = { uris: [ALICE] }
  const bad: readonly (readonly [string, () => Promise<KeyPair>])[] = [
    ['from another CA', () => stranger.leaf(good)],
    ['that has expired', () => own.leaf({ ...good, from: -7200, to: -3600 })],
    ['that is not yet valid', () => own.leaf({ ...good, from: 3600, to: 7200 })],
    ['with two URI SANs', () => own.leaf({ uris: [ALICE, 'spiffe://example.test/agent/bob'] })],
    ['with no URI SAN', () => own.leaf({ uris: [], dns: ['alice.agent.example.test'] })],
    ['of another trust domain', () => own.leaf({ uris: ['spiffe://elsewhere.test/agent/alice'] })],
    ['for servers only', () => own.leaf({ ...good, eku: 'serverAuth' })],
    ['of a role that does not exist', () => own.leaf({ uris: ['spiffe://example.test/admin/alice'] })],
    ['with an empty name', () => own.leaf({ uris: ['spiffe://example.test/agent/'] })],
    ["of a stranger, alice's behind it", async () => chained((leaf) => [leaf.cert, alice.cert])],
    ["of a stranger, alice's and the CA behind it", async () => chained((leaf) => [leaf.cert, alice.cert, own.ca.cert])],
    ["of a stranger, the CA and alice's behind it", async () => chained((leaf) => [leaf.cert, own.ca.cert, alice.cert])],
  ]
  const chained = async (order: (leaf: KeyPair) => string[]): Promise<KeyPair> => {
    const leaf = await stranger.leaf(good)
    return stranger.chain(leaf, order(leaf))
  }

  test('the forge makes what both accept when nothing is wrong with it', async () => {
    expect(await ask({ outer: await own.leaf(good), target: WEB, get: '/hello' })).toMatchObject({ status: 200, body: 'hello\n' })
  })

  test('is refused by the relay with no certificate', async () => {
    refused(await ask({ outer: null }), 'outer')
  })

  test.each(bad)('is refused by the relay with a certificate %s', async (_, make) => {
    refused(await ask({ outer: await make() }), 'outer')
  })

  test.each(bad)('is refused by the connector with a certificate %s', async (_, make) => {
    refused(await ask({ outer: alice, inner: await make(), target: WEB }), 'inner')
  })

  test('is taken for its own leaf and no other in the chain', async () => {
    const both = own.chain(alice, [alice.cert, pairOf(t.trust.out('agent', 'bob')).cert])
    const result = await ask({ outer: both, connector: 'c2', target: 'hidden.ztna.internal:80' })
    expect(result.status).not.toBe(200)
    expect((await ask({ outer: pairOf(t.trust.out('agent', 'bob')), connector: 'c2' })).status).toBe(200)
  })

  test("is refused by the relay and the connector with a connector's certificate in an agent's place", async () => {
    const c2 = pairOf(t.trust.out('connector', 'c2'))
    refused(await ask({ outer: c2 }), 'outer')
    refused(await ask({ outer: alice, inner: c2, target: WEB }), 'inner')
  })

  test("may not bind with an agent's certificate", async () => {
    expect(await ask({ outer: alice, ...bind })).toMatchObject({
      stage: 'outer',
      status: 403,
      proxyStatus: expect.stringContaining('http_request_denied') as string,
    })
    // And c1 is still bound: it was not displaced.
    expect(await ask({ outer: alice, target: WEB, get: '/hello' })).toMatchObject({ status: 200 })
  })

  test("may not bind a name that is another connector's", async () => {
    const imposter = await own.leaf({ uris: ['spiffe://example.test/connector/c2'], dns: ['c1.connector.example.test'] })
    const result = await ask({ outer: imposter, ...bind })
    expect(result.status).not.toBe(200)
    expect(await ask({ outer: alice, target: WEB, get: '/hello' })).toMatchObject({ status: 200, body: 'hello\n' })
  })

  test('is denied by the relay a connector it has no service on', async () => {
    expect(await ask({ outer: alice, connector: 'c2' })).toMatchObject({
      stage: 'outer',
      status: 403,
      proxyStatus: expect.stringContaining('http_request_denied') as string,
    })
  })

  test('is told by the relay when a connector is not there, and learns nothing about names it may not know', async () => {
    const absent = await ask({ outer: alice, connector: 'c3' })
    const unknown = await ask({ outer: alice, connector: 'nobody' })
    expect(absent.status).toBe(403)
    expect([403, 404]).toContain(unknown.status)
  })

  test.each([
    ['a port the policy does not name', { target: 'web.ztna.internal:81' }],
    ['a protocol the policy does not name', { target: 'web.ztna.internal:80', udp: 'x' }],
    ['a service whose policy errors', { target: 'broken.ztna.internal:80' }],
  ])('is denied by the connector %s, with a reason', async (_, request) => {
    expect(await ask({ outer: alice, ...request })).toMatchObject({
      stage: 'flow',
      status: 403,
      proxyStatus: expect.stringContaining('http_request_denied') as string,
    })
  })

  test.each(['nothing.ztna.internal:80', 'web.example.com:80', '127.0.0.1:8080', 'web.ztna.internal:8080'])(
    'is refused %s by the connector',
    async (target) => {
      const result = await ask({ outer: alice, target })
      expect(result).toMatchObject({ stage: 'flow' })
      expect([400, 403, 404, 502]).toContain(result.status)
    },
  )

  test('is refused at both ends once its certificate is revoked', async () => {
    const mallory = pairOf(t.trust.out('agent', 'mallory'))
    expect(await ask({ outer: mallory, target: WEB, get: '/hello' })).toMatchObject({ status: 200 })
    await t.trust.revoke('mallory')
    await t.trust.publish()
    // Each end reads its own folder in its own time.
    await until('the relay refuses mallory', async () => (await ask({ outer: mallory })).status !== 200, 10_000)
    const inner = { outer: alice, inner: mallory, target: WEB }
    await until('the connector refuses mallory', async () => (await ask(inner)).status !== 200, 10_000)
    refused(await ask({ outer: mallory }), 'outer')
    refused(await ask(inner), 'inner')
  })
})

/** Refused at the handshake, or at the latest by an answer that is no success. */
function refused(result: MasqueResult, stage: 'outer' | 'inner'): void {
  expect(result.status ?? 0).not.toBe(200)
  expect(result.body ?? '').toBe('')
  if (result.error === undefined) expect([401, 403]).toContain(result.status)
  if (stage === 'outer') expect(result.stage).toBe('outer')
  else expect(result.stage).not.toBe('outer')
}
