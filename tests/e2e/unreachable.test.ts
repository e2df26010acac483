import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { ZtnaAgent, ZtnaConnector, ZtnaError, ZtnaRelay, type ConnectorOptions, type Forward } from '@ztna/sdk'
import { expect, test } from 'vitest'
import { Loopback } from '../lib/loopback.ts'
import { Lab } from '../lib/netns.ts'
import { until } from '../lib/programs.ts'
import { startRole, ztna } from '../lib/ztna.ts'

// What a user is told when a service can't be reached: the cause, and what to do about it.

type Service = NonNullable<ConnectorOptions['services']>[number]
const target = (to: string): Service => ({ service: 'web', protocol: 'tcp', ports: [80, 80], target: to })

interface World {
  readonly lab: Loopback
  readonly agent: ZtnaAgent
}

/** Whatever is asked for, started, then `use`, then all of it ended. */
async function within(o: { relay?: boolean; connector?: ConnectorOptions }, use: (w: World) => Promise<void>): Promise<void> {
  using lab = await Loopback.create({ services: [{ name: 'web', tcp: [80] }] })
  const relay = new ZtnaRelay({ network: `${lab.dir}/relay-r1`, listen: [{ udp: lab.relayAddress }] })
  const connector = new ZtnaConnector({ network: `${lab.dir}/connector-c1`, ...o.connector })
  const agent = new ZtnaAgent({ network: `${lab.dir}/agent-alice` })
  try {
    if (o.relay !== false) await relay.start()
    if (o.connector !== undefined) await connector.start()
    await use({ lab, agent })
  } finally {
    for (const role of [agent, connector, relay]) await role.close({ drainMs: 0 })
  }
}

/** What a local client that sends `text` gets back until its connection ends: bytes, or the code of its error. */
async function talk(to: Forward, text: string): Promise<string> {
  const socket = connect((to.address() as AddressInfo).port, '127.0.0.1')
  socket.write(text, 'latin1')
  let got = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => (got += chunk))
  return new Promise((resolve) => {
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    socket.once('end', () => resolve(got))
  })
}

async function errorOf(what: Promise<unknown>): Promise<ZtnaError> {
  const error = await what.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof ZtnaError) return error
  throw new Error(`no ZtnaError, but ${String(error)}`)
}

test('a relay that is down: start() and ztna check name it, its address and what to check', async () => {
  await within({ relay: false }, async ({ lab, agent }) => {
    const advice = `relay r1 (${lab.relayAddress}): no answer yet`
    const error = await errorOf(agent.start({ timeoutMs: 500 }))
    expect(error.code).toBe('ERR_ZTNA_UNREACHABLE')
    expect(error.message).toContain(
      `not online within 500 ms: no relay answers: ${advice}; nothing ever came back (udp-blocked): check that`,
    )
    expect(error.details).toMatchObject({ reason: 'udp-blocked', tried: [advice] })
    await using processes = new Lab()
    const role = startRole(processes, await processes.netns('alice'), 'agent', 'alice', `${lab.dir}/agent-alice`)
    await until('the agent takes commands', () => Promise.resolve(existsSync(role.control)))
    const { code, stderr } = await ztna(['check', 'web:80', '--control', role.control, '--timeout', '1'], {
      in: role.netns,
      codes: 'any',
    })
    expect([code, stderr]).toEqual([75, expect.stringContaining(`service \`web\`: no relay answers: ${advice}; nothing ever came back`)])
  })
})

test('a forward, a proxy client and a SOCKS client without a relay: each is let go, and told of once', async () => {
  await within({ relay: false }, async ({ agent }) => {
    const given = new AbortController()
    const told: string[] = []
    agent.on('flow-failed', ({ code, message }, { service }) => told.push(`${service} ${code} ${message}`))
    const starting = agent.start({ timeoutMs: Infinity, signal: given.signal }).catch(() => undefined)
    await once(agent, 'identity')
    const forward = await agent.forward({ service: 'web', port: 80, listen: {} })
    const proxy = await agent.forward({ socks5: { port: 0 } })
    const [direct, second, http, socks] = await Promise.all([
      talk(forward, ''),
      talk(forward, ''),
      talk(proxy, 'CONNECT web:80 HTTP/1.1\r\n\r\n'),
      talk(proxy, '\x05\x01\x00\x05\x01\x00\x03\x03web\x00\x50'),
    ])
    expect([direct, second]).toEqual(['ECONNRESET', 'ECONNRESET'])
    expect(http).toMatch(/^HTTP\/1\.1 503 [^]*no relay answers: relay r1 [^]*check that the relay runs/)
    // The method, then reply 3: network unreachable.
    expect(socks.slice(0, 4)).toBe('\x05\x00\x05\x03')
    expect(told).toHaveLength(4)
    for (const text of told) expect(text).toMatch(/^web ERR_ZTNA_UNREACHABLE .*no relay answers: .*check that the relay runs/)
    given.abort()
    await starting
  })
})

test('a connector that is not bound: the relay that said so, and which command to start', async () => {
  await within({}, async ({ agent }) => {
    await agent.start()
    const error = await errorOf(agent.connect({ service: 'web', port: 80, timeoutMs: 600 }))
    expect(error.code).toBe('ERR_ZTNA_UNREACHABLE')
    expect(error.message).toMatch(/relay r1: connector `c1` is not bound at this relay; start `ztna connector` for it/)
    const tried = ['relay r1: connector `c1` is not bound at this relay']
    expect(error.details).toEqual({ service: 'web', port: 80, protocol: 'tcp', reason: 'not-bound', tried })
  })
})

test('a target that refuses: connector, address and what to look at, each once', async () => {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  await within({ connector: { services: [target(`tcp:127.0.0.1:${port}`)] } }, async ({ agent }) => {
    await agent.start()
    const { code, message } = await errorOf(agent.connect('web:80'))
    expect([code, message]).toEqual([
      'ERR_ZTNA_REFUSED',
      `refused: connector \`c1\`: 127.0.0.1:${port} refused the connection: is the service running?`,
    ])
  })
})

test('a target whose name does not resolve: the name, and the flag that holds it', async () => {
  await within({ connector: { services: [target('tcp:nowhere.invalid:80')] } }, async ({ agent }) => {
    await agent.start()
    const { code, message } = await errorOf(agent.connect('web:80'))
    expect(code).toBe('ERR_ZTNA_UNREACHABLE')
    expect(message).toMatch(/^unreachable: connector `c1`: nowhere\.invalid:80: .*; check the host in --service, and the resolver here$/)
  })
})

test('a service that the connector was not started for: the flag to start it with', async () => {
  await within({ connector: {} }, async ({ agent }) => {
    await agent.start()
    const { message } = await errorOf(agent.connect('web:80'))
    expect(message).toContain('connector `c1`: it serves no tcp port 80 of `web`: start it with --service web=tcp:80:HOST:PORT')
  })
})

test('a connector that has the request and takes too long: a timeout that says whom it waits for', async () => {
  const authorize = (): Promise<boolean> => new Promise(() => undefined)
  await within({ connector: { authorize, services: [target('tcp:127.0.0.1:1')] } }, async ({ agent }) => {
    await agent.start()
    const { code, message } = await errorOf(agent.connect({ service: 'web', port: 80, timeoutMs: 400 }))
    expect(code).toBe('ERR_ZTNA_TIMEOUT')
    expect(message).toContain('connector `c1` has the request and still tries to reach service `web`; allow it more time')
  })
})
