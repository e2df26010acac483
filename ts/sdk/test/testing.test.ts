import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { type ConnectorOptions, type NodeOptions, ZtnaAgent, ZtnaConnector, ZtnaRelay, type ZtnaSocket } from '../src/index.js'
import { type TestNetworkOptions, createTestNetwork } from '../src/testing.js'

const SERVICES = { echo: { tcp: [7], udp: [7] } }

test('two homes behind ordinary NATs become direct, and their nodes open no UDP socket of the system', async () => {
  await using lab = await start({ nat: 'endpoint-independent' })
  const path = await lab.net.until(lab.agent, 'echo', 'direct')
  expect(path.remote).toMatch(/^203\.0\.113\./)
  expect(lab.net.addresses('alice')).toEqual(['192.168.1.10'])
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
  expect(ownUdpSockets()).toEqual([])
})

test('two homes behind hard NATs stay with the relay, and the wait for another path says why', async () => {
  await using lab = await start({ nat: 'address-and-port-dependent' })
  const wait = lab.net.until(lab.agent, 'echo', 'direct', { timeoutMs: 3_000 })
  await expect(wait).rejects.toMatchObject({
    code: 'ERR_ZTNA_TIMEOUT',
    message: expect.stringMatching(/^the path to echo is not direct after 3000 ms but relay: .*hard-nat-both/) as string,
  })
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
})

test('the reasons are told though the last ping is cut', async () => {
  await using lab = await start({ nat: 'address-and-port-dependent', delay: 100 })
  const wait = lab.net.until(lab.agent, 'echo', 'direct', { timeoutMs: 4_000 })
  await expect(wait).rejects.toMatchObject({
    code: 'ERR_ZTNA_TIMEOUT',
    message: expect.stringMatching(/not direct after 4000 ms but relay: hard-nat-both: /) as string,
    details: { reason: 'hard-nat-both' },
  })
})

test('a policy that demands a direct path is named where there is none, at once by check and explain', async () => {
  const policy = '@id("near") permit(principal, action, resource) when { context.path == "direct" };'
  await using lab = await start({ nat: 'address-and-port-dependent', policy })
  expect(await lab.agent.check('echo:7')).toMatchObject({ allowed: true, path: 'direct', policyId: 'near' })
  // Were it to wait for a direct path, it would do so for all of its time.
  const told = await lab.agent.explain('echo:7', { timeoutMs: Infinity })
  expect(told).toMatchObject({ path: { kind: 'none' }, demand: { path: 'direct', by: 'policy', policyId: 'near' } })
  expect(told.reasons[0]).toMatchObject({ code: 'hard-nat-both', remedy: expect.stringContaining('forward a UDP port') as string })
  await expect(lab.agent.connect({ service: 'echo', port: 7, timeoutMs: 1_500 })).rejects.toMatchObject({
    code: 'ERR_ZTNA_UNREACHABLE',
    message: expect.stringMatching(
      /policy `near` permits it on a direct path only, and there is no direct path.*forward a UDP port/,
    ) as string,
    details: { reason: 'hard-nat-both' },
  })
})

test('a policy that demands the relay is named by explain, on the connection that keeps to it', async () => {
  const policy = '@id("far") permit(principal, action, resource) when { context.path == "relay" };'
  await using lab = await start({ policy })
  const told = await lab.agent.explain('echo')
  expect(told).toMatchObject({ path: { kind: 'relay' }, demand: { path: 'relay', by: 'policy', policyId: 'far' } })
  expect(told.reasons.map(({ code }) => code)).toEqual(['relay-only-by-policy'])
})

test('a forward that keeps to the relay has a connection of its own, which status tells from the other', async () => {
  await using lab = await start({})
  await lab.net.until(lab.agent, 'echo', 'direct')
  await using forward = await lab.agent.forward({ service: 'echo', port: 7, path: 'relay-only', listen: {} })
  const { port } = forward.address() as AddressInfo
  const socket = connect(port, '127.0.0.1').setEncoding('utf8')
  socket.write('hello')
  expect((await once(socket, 'data'))[0]).toBe('hello')
  const kinds = lab.agent.status().connectors.map(({ name, pathPolicy, path, flows }) => [name, pathPolicy, path.kind, flows])
  expect(kinds.toSorted(([, a], [, b]) => String(a).localeCompare(String(b)))).toEqual([
    ['c1', 'auto', 'direct', 0],
    ['c1', 'relay-only', 'relay', 1],
  ])
  socket.destroy()
})

test('where no UDP passes at all the reason is udp-blocked, before the agent was ever online and after', async () => {
  await using lab = await start({ agents: { alice: {}, bob: {} } })
  lab.net.block('bob', 'udp')
  const bob = new ZtnaAgent(lab.net.agent('bob'))
  await expect(bob.start({ timeoutMs: 1_500 })).rejects.toMatchObject({ code: 'ERR_ZTNA_UNREACHABLE', details: { reason: 'udp-blocked' } })
  lab.net.block('alice', 'udp')
  for (const timeoutMs of [2_000, 6_000]) {
    await expect(lab.agent.connect({ service: 'echo', port: 7, timeoutMs })).rejects.toMatchObject({
      code: 'ERR_ZTNA_UNREACHABLE',
      details: { reason: 'udp-blocked' },
    })
  }
}, 20_000)

test('a delay is that of each line, each way', async () => {
  await using lab = await start({ delay: 20, relays: { r1: { delay: 5 } } })
  await lab.net.until(lab.agent, 'echo', 'direct')
  const { rttMs } = await lab.agent.ping('echo')
  expect(rttMs).toBeGreaterThanOrEqual(80)
  expect(lab.agent.status().relays[0]?.rttMs).toBeGreaterThanOrEqual(50)
})

test('losses are as many as were asked for, and streams make up for them', async () => {
  await using lab = await start({ loss: 0.05, seed: 7 })
  await lab.net.until(lab.agent, 'echo', 'direct')
  expect(await echoed(lab.agent, 'x'.repeat(200_000))).toHaveLength(200_000)
  const socket = await lab.agent.datagram('echo')
  let back = 0
  socket.on('message', () => (back += 1))
  const sent = 1_000
  for (let n = 0; n < sent; n += 20) {
    for (let m = 0; m < 20; m += 1) socket.send(Buffer.alloc(500))
    await sleep(5)
  }
  await sleep(200)
  await socket.close()
  // Two lines there and two back: 0.95⁴ = 81 %, and four standard deviations; a busy machine may lose some more in its queues.
  expect(back / sent).toBeGreaterThan(0.6)
  expect(back / sent).toBeLessThan(0.87)
})

test('a direct path that is blocked gives way to the relay under an open socket, and comes back', async () => {
  await using lab = await start({ nat: 'endpoint-independent' })
  await lab.net.until(lab.agent, 'echo', 'direct')
  const socket = await lab.agent.connect('echo:7')
  lab.net.block('alice')
  expect(await answer(socket, 'one')).toBe('one')
  await lab.net.until(lab.agent, 'echo', 'relay')
  expect(await answer(socket, 'two')).toBe('two')
  lab.net.unblock('alice')
  await lab.net.until(lab.agent, 'echo', 'direct', { timeoutMs: 60_000 })
  socket.destroy()
}, 70_000)

test('a socket that keeps to the relay tells of its own path, not of the direct one to the same connector', async () => {
  await using lab = await start({ nat: 'endpoint-independent' })
  const socket = await lab.agent.connect({ service: 'echo', port: 7, path: 'relay-only' })
  const others = await lab.agent.connect('echo:7')
  await lab.net.until(lab.agent, 'echo', 'direct')
  await expect.poll(() => others.path.kind).toBe('direct')
  expect(await answer(socket, 'one')).toBe('one')
  expect(socket.path.kind).toBe('relay')
  socket.destroy()
  others.destroy()
})

test('a NAT that rebinds is noticed by nobody with an open socket, and the path is direct again', async () => {
  await using lab = await start({ nat: 'endpoint-independent' })
  await lab.net.until(lab.agent, 'echo', 'direct')
  const socket = await lab.agent.connect('echo:7')
  lab.net.rebind('alice')
  expect(await answer(socket, 'after')).toBe('after')
  await lab.net.until(lab.agent, 'echo', 'direct')
  socket.destroy()
})

test('an agent that moves takes its open sockets along', async () => {
  await using lab = await start({ nat: 'endpoint-independent', homes: { office: { nat: 'firewall' } } })
  await lab.net.until(lab.agent, 'echo', 'direct')
  const socket = await lab.agent.connect('echo:7')
  lab.net.move('alice')
  expect(await answer(socket, 'café')).toBe('café')
  lab.net.move('alice', { nat: 'double', delay: 3 })
  expect(await answer(socket, 'hotel')).toBe('hotel')
  lab.net.move('alice', 'office')
  expect(lab.net.addresses('alice')[0]).toMatch(/^203\.0\.113\./)
  expect(await answer(socket, 'office')).toBe('office')
  await lab.net.until(lab.agent, 'echo', 'direct')
  socket.destroy()
})

test('another NAT decides on the path from then on', async () => {
  await using lab = await start({ agents: { alice: { nat: 'address-and-port-dependent' } }, connectors: { c1: { nat: 'none' } } })
  await lab.net.until(lab.agent, 'echo', 'direct')
  lab.net.setNat('c1', 'address-and-port-dependent')
  await lab.net.until(lab.agent, 'echo', 'relay')
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
})

test('a line that is changed is another one from the next packet on', async () => {
  await using lab = await start({ delay: 5, agents: { alice: {}, bob: {} } })
  await using bob = await new ZtnaAgent(lab.net.agent('bob')).start()
  await lab.net.until(lab.agent, 'echo', 'direct')
  lab.net.setLine({ delay: 50 }, 'alice')
  expect((await lab.agent.ping('echo')).rttMs).toBeGreaterThan(20)
  const socket = await lab.agent.connect('echo:7')
  const order: string[] = []
  lab.net.setLine({ loss: 1 }, 'alice')
  const answered = answer(socket, 'hello').then((text) => order.push(text))
  for (const text of ['one', 'two', 'three']) order.push(await echoed(bob, text))
  lab.net.setLine({ loss: 0 }, 'alice')
  await answered
  expect(order).toEqual(['one', 'two', 'three', 'hello'])
})

test('nodes of one home talk past its line', async () => {
  const place = { home: 'flat' }
  await using lab = await start({
    homes: { flat: { nat: 'address-and-port-dependent' } },
    agents: { alice: place },
    connectors: { c1: place },
  })
  const path = await lab.net.until(lab.agent, 'echo', 'direct')
  expect(path.remote).toMatch(/^192\.168\.1\./)
  lab.net.setLine({ loss: 1 }, 'flat')
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
})

test('IPv6 is direct between homes whose NATs for IPv4 are hard', async () => {
  await using lab = await start({ nat: 'address-and-port-dependent', ip: 'dual' })
  expect((await lab.net.until(lab.agent, 'echo', 'direct')).remote).toMatch(/^\[2001:db8:/)
})

test('a relay that a test closes can be replaced', async () => {
  await using lab = await start({})
  await lab.net.relays.get('r1')?.close({ drainMs: 0 })
  const relay = await new ZtnaRelay(lab.net.relay('r1')).start()
  expect(relay.address()[0]).toMatchObject({ address: '198.51.100.1', port: 4433 })
  await lab.net.until(lab.agent, 'echo', 'direct', { timeoutMs: 20_000 })
}, 30_000)

test('policies and revocations reach nodes that run', async () => {
  await using lab = await start({ agents: { alice: { groups: ['eng'] }, bob: {} } })
  await using bob = await new ZtnaAgent(lab.net.agent('bob')).start()
  expect(await echoed(bob, 'hello')).toBe('hello')
  await lab.net.setPolicy('permit(principal in Group::"eng", action == Action::"connect", resource);')
  await expect(bob.connect('echo:7')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
  await expect(lab.net.setPolicy('permit(')).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
  expect(await echoed(lab.agent, 'still')).toBe('still')
  await lab.net.revoke('alice')
  await expect(lab.agent.connect({ service: 'echo', port: 7, timeoutMs: 2_000 })).rejects.toThrow(/./)
})

test('an empty policy permits nobody anything, from the start and later', async () => {
  await using net = await createTestNetwork({ services: { echo: { tcp: [7] } }, policy: '' })
  await using agent = await new ZtnaAgent(net.agent('alice')).start()
  await expect(agent.connect('echo:7')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
  await using lab = await start({})
  expect(await echoed(lab.agent, 'hello')).toBe('hello')
  await lab.net.setPolicy('')
  await expect(lab.agent.connect('echo:7')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
  await expect(lab.net.setPolicy(undefined as never)).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
})

test('two networks at once know nothing of each other', async () => {
  await using one = await start({ nat: 'firewall' }, 'one')
  await using two = await start({ nat: 'carrier' }, 'two')
  await Promise.all([one, two].map(({ net, agent }) => net.until(agent, 'echo', 'direct')))
  expect(await Promise.all([one, two].map(({ agent }) => echoed(agent, '!')))).toEqual(['one!', 'two!'])
  await two.net.close()
  expect(two.agent.state).toBe('closed')
  expect(await echoed(one.agent, '?')).toBe('one?')
})

test('a network that has closed takes the roles along that a test forgot, and has none back', async () => {
  const net = await createTestNetwork({ services: SERVICES })
  const agent = await new ZtnaAgent(net.agent('alice')).start()
  const relay = net.relays.get('r1')
  await Promise.all([net.close(), net.close()])
  expect([agent.state, relay?.state]).toEqual(['closed', 'closed'])
  await expect(new ZtnaAgent(net.agent('alice')).start()).rejects.toMatchObject({ code: 'ERR_ZTNA_CLOSED' })
  expect(() => net.rebind('alice')).toThrow(expect.objectContaining({ code: 'ERR_ZTNA_CLOSED' }) as Error)
})

test('twenty networks leave no descriptor and no thread', async () => {
  const round = async (): Promise<void> => {
    await using lab = await start({ nat: 'endpoint-independent' })
    await echoed(lab.agent, 'hello')
  }
  await round()
  const before = held()
  for (let n = 0; n < 20; n += 1) await round()
  await expect.poll(held, { timeout: 10_000 }).toEqual(before)
}, 60_000)

interface Lab extends AsyncDisposable {
  readonly net: Awaited<ReturnType<typeof createTestNetwork>>
  readonly agent: ZtnaAgent
}

/** A network with alice, who runs, and c1, which echoes behind a greeting. */
async function start(options: TestNetworkOptions, greeting = ''): Promise<Lab> {
  const net = await createTestNetwork({ services: SERVICES, ...options })
  try {
    const of = <T extends NodeOptions | ConnectorOptions>(given: T): T => given
    const connector = await new ZtnaConnector(of(net.connector('c1'))).start()
    await connector.serve('echo', {
      socket: (socket) => {
        if (greeting !== '') socket.write(greeting)
        socket.on('error', () => {})
        socket.pipe(socket)
      },
    })
    await connector.serve('echo', { udp: (socket) => socket.on('message', (message) => socket.send(message)) })
    const agent = await new ZtnaAgent(of(net.agent('alice'))).start()
    return { net, agent, [Symbol.asyncDispose]: () => net.close() }
  } catch (error) {
    await net.close()
    throw error
  }
}

async function echoed(agent: ZtnaAgent, text: string): Promise<string> {
  const socket = await agent.connect('echo:7')
  socket.end(text)
  let all = ''
  for await (const chunk of socket) all += String(chunk)
  return all
}

/** What an open socket brings back. */
async function answer(socket: ZtnaSocket, text: string): Promise<string> {
  socket.write(text)
  const wanted = Buffer.byteLength(text)
  const got: Buffer[] = []
  return new Promise((resolve, reject) => {
    const onData = (chunk: Buffer): void => {
      got.push(chunk)
      if (Buffer.concat(got).length < wanted) return
      socket.off('data', onData)
      resolve(Buffer.concat(got).toString())
    }
    socket.on('data', onData)
    socket.once('error', reject)
  })
}

function held(): { fds: number; threads: number } {
  return { fds: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length }
}

/** UDP sockets of the system that this process holds, by inode. */
function ownUdpSockets(): string[] {
  const lines = ['udp', 'udp6'].flatMap((file) => readFileSync(`/proc/self/net/${file}`, 'utf8').trim().split('\n').slice(1))
  const all = new Set(lines.map((line) => line.trim().split(/\s+/)[9]))
  const own = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1]
    } catch {
      // The one that listed them.
      return undefined
    }
  })
  return own.filter((inode): inode is string => inode !== undefined && all.has(inode))
}
