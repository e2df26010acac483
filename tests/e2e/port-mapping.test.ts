import { expect, test } from 'vitest'
import { MappingHomes, explain } from '../lib/mapping-homes.ts'
import { curl } from '../lib/peers.ts'
import { nginx, until } from '../lib/programs.ts'
import type { RoleProc } from '../lib/ztna.ts'

interface Running {
  readonly connector: RoleProc
  readonly agent: RoleProc
}

async function start(h: MappingHomes, args: readonly string[] = []): Promise<Running> {
  await nginx(h.place('c1'), 8080)
  await h.relay()
  const connector = await h.role('connector', 'c1', ['--service', 'web=tcp:80:127.0.0.1:8080', ...args])
  const agent = await h.role('agent', 'alice', ['--forward', 'tcp:127.0.0.1:8080=web:80', ...args])
  return { connector, agent }
}

const fetched = async (h: MappingHomes): Promise<string> => (await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')).body

const isDirect = async (agent: RoleProc): Promise<boolean> => (await explain(agent)).path.kind === 'direct'

test.each([
  ['PCP', 'pcp', 'pcp'],
  ['NAT-PMP', 'nat-pmp', 'nat-pmp'],
  ['UPnP', 'upnp', 'upnp'],
] as const)(
  'two homes behind hard NATs talk directly once a router opens a port by %s, and the port is closed with the node',
  async (_, router, protocol) => {
    await using h = await MappingHomes.create({ alice: router, c1: 'refuses' })
    const { agent } = await start(h)
    expect(await fetched(h)).toBe('hello\n')
    await until('the path is direct', async () => isDirect(agent), 20_000)
    const { portMapping, nat } = await explain(agent)
    expect(nat.local).toBe('address-and-port-dependent')
    expect(portMapping).toMatchObject({ state: 'mapped', protocol, external: expect.stringMatching(/^45\.90\.1\.1:\d+$/) as string })
    expect(await h.openPorts('alice')).toHaveLength(1)
    expect(await fetched(h)).toBe('hello\n')
    await agent.stop()
    expect(await h.openPorts('alice')).toEqual([])
  },
)

test("a port that the connector's router opens is a candidate that the agent can name", async () => {
  await using h = await MappingHomes.create({ alice: 'refuses', c1: 'pcp' })
  const { agent } = await start(h)
  expect(await fetched(h)).toBe('hello\n')
  await until('the path is direct', async () => isDirect(agent), 20_000)
  const told = await explain(agent)
  expect(told.checks).toContainEqual(
    expect.objectContaining({ via: 'portmap', result: 'ok', remote: expect.stringMatching(/^45\.90\.2\.1:/) as string }),
  )
  expect(told.portMapping.state).toMatch(/asking|failed/)
})

test('a router that does not answer delays nothing, and is told of', async () => {
  await using h = await MappingHomes.create({ alice: 'silent', c1: 'silent' })
  const { agent } = await start(h)
  expect(await fetched(h)).toBe('hello\n')
  // Three protocols in vain take three seconds and more, and data has flown meanwhile.
  const failed = (): boolean => agent.proc.lines.some((line) => line.includes('port mapping') && line.includes('failed'))
  expect(failed()).toBe(false)
  await until('all protocols have been tried', failed)
  const { portMapping, path, reasons } = await explain(agent)
  expect(portMapping.detail).toBe('the router gave no port: PCP: no answer; NAT-PMP: no answer; UPnP: no answer')
  expect(path.kind).toBe('relay')
  expect(reasons).toContainEqual(
    expect.objectContaining({ code: 'hard-nat-both', detail: expect.stringContaining('the router gave no port') as string }),
  )
})

test('a host that gets another address has the port opened for that one', async () => {
  await using h = await MappingHomes.create({ alice: 'pcp', c1: 'refuses' })
  const { agent } = await start(h)
  await until('the port is open', async () => (await h.openPorts('alice')).length === 1)
  const host = h.place('alice')
  await host.run('ip', ['address', 'delete', '192.168.1.10/24', 'dev', 'eth0'])
  await host.run('ip', ['address', 'add', '192.168.1.77/24', 'dev', 'eth0'])
  await host.run('ip', ['route', 'replace', 'default', 'via', '192.168.1.1'])
  await until('the port leads to the new address', async () => (await h.openPorts('alice')).some((rule) => rule.includes('192.168.1.77')))
  expect(await fetched(h)).toBe('hello\n')
  await until('the path is direct', async () => isDirect(agent), 20_000)
})

test('a router that is behind another NAT itself opens nothing, and explain says why', async () => {
  await using h = await MappingHomes.create({ alice: 'pcp', c1: 'refuses', aliceOutside: '100.64.7.1' })
  const { agent } = await start(h)
  expect(await fetched(h)).toBe('hello\n')
  await until('the router has been asked', async () => (await explain(agent)).portMapping.state === 'failed')
  const { portMapping, path } = await explain(agent)
  expect(portMapping.detail).toContain('its own network has failed: it has no public address')
  expect(path.kind).toBe('relay')
  expect(await h.openPorts('alice')).toEqual([])
})

test('a node that is told so asks for nothing', async () => {
  await using h = await MappingHomes.create({ alice: 'pcp', c1: 'pcp' })
  const { agent } = await start(h, ['--no-port-mapping'])
  expect(await fetched(h)).toBe('hello\n')
  expect((await explain(agent)).portMapping).toMatchObject({ state: 'off' })
  expect([...(await h.openPorts('alice')), ...(await h.openPorts('c1'))]).toEqual([])
})
