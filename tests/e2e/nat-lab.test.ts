import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { Lab, type Netns } from '../lib/netns.ts'
import type { Filtering, Mapping, NatSpec, NetSpec } from '../lib/net.ts'
import { run } from '../lib/proc.ts'

const PROBE = fileURLToPath(new URL('../fixtures/nat-probe.mjs', import.meta.url))
const SERVER = ['198.51.100.1', '198.51.100.2']
const SERVER_V6 = ['2001:db8:ffff::1', '2001:db8:ffff::2']
const PORTS = ['4433', '4434']
const MAPPINGS: readonly Mapping[] = ['eim', 'adm', 'apdm']
const FILTERINGS: readonly Filtering[] = ['eif', 'adf', 'apdf']

test.each(['netlab', 'kernel'] as const)('each mapping with each filtering is what a probe of the real kernel sees: %s', async (made) => {
  await using lab = new Lab()
  const kinds = MAPPINGS.flatMap((mapping) => FILTERINGS.map((filtering) => ({ mapping, filtering })))
  const homes = await Promise.all(kinds.map((kind) => home(lab, kind)))
  const server = await lab.netns('server')
  const spec: NetSpec = {
    seed: 7,
    routers: homes.map(({ nat }, i) => ({ name: `home${i}`, external: [`203.0.113.${i + 1}`], v4: { nat } })),
    hosts: [
      { name: 'server', netns: server, addresses: SERVER.map((ip) => `${ip}/24`) },
      // All homes have the same addresses.
      ...homes.map(({ netns }, i) => ({ name: `host${i}`, realm: `home${i}`, netns, addresses: ['192.168.1.10/24'] })),
    ],
  }
  await (made === 'kernel' ? lab.kernelNet(spec) : lab.net(spec))
  await serve(server, SERVER)
  const seen = await Promise.all(homes.map(({ netns }) => probe(netns, SERVER)))
  expect(seen.map(({ mapping, filtering }) => ({ mapping, filtering }))).toEqual(kinds)
  expect(seen.map(({ external }) => external.split(' ')[0])).toEqual(homes.map((_, i) => `203.0.113.${i + 1}`))
})

test('IPv6 keeps its addresses behind a firewall that lets answers in only', async () => {
  await using lab = new Lab()
  const [host, server] = [await lab.netns('host'), await lab.netns('server')]
  const net = await lab.net({
    routers: [{ name: 'home', v6: { firewall: {} } }],
    hosts: [
      { name: 'host', realm: 'home', netns: host, addresses: ['2001:db8:a::10/64'] },
      { name: 'server', netns: server, addresses: SERVER_V6.map((ip) => `${ip}/64`) },
    ],
  })
  await serve(server, SERVER_V6)
  const seen = await probe(host, SERVER_V6)
  expect(seen).toMatchObject({ mapping: 'eim', filtering: 'apdf' })
  expect(seen.external).toMatch(/^2001:db8:a::10 /)
  expect((await net.stats('home')).v6?.filtered).toBeGreaterThan(0)
})

test('behind two NATs a probe sees the outer address, and a carrier without hairpin keeps its homes apart', async () => {
  await using lab = new Lab()
  const [a, b, server] = [await lab.netns('a'), await lab.netns('b'), await lab.netns('server')]
  const net = await lab.net({
    routers: [
      { name: 'carrier', external: ['203.0.113.1'], v4: { nat: { filtering: 'eif', ports: 'random' } } },
      { name: 'home-a', outer: 'carrier', external: ['100.64.0.2'], v4: { nat: { mapping: 'apdm' } } },
      { name: 'home-b', outer: 'carrier', external: ['100.64.0.3'], v4: { nat: { filtering: 'eif' } } },
    ],
    hosts: [
      { name: 'a', realm: 'home-a', netns: a, addresses: ['192.168.1.10/24'] },
      { name: 'b', realm: 'home-b', netns: b, addresses: ['192.168.1.10/24'] },
      { name: 'server', netns: server, addresses: SERVER.map((ip) => `${ip}/24`) },
    ],
  })
  await serve(server, SERVER)
  expect(await probe(a, SERVER)).toMatchObject({ mapping: 'apdm', filtering: 'apdf' })
  const seen = await probe(b, SERVER)
  expect(seen).toMatchObject({ mapping: 'eim', filtering: 'eif' })
  expect(seen.external).toMatch(/^203\.0\.113\.1 /)
  await run(a, 'bash', ['-c', `echo x > /dev/udp/${seen.external.replace(' ', '/')}`])
  expect((await net.dropped()).hairpin).toBe(1)
})

test('a router rebinds, changes its address, blocks UDP and is cut while it runs', async () => {
  await using lab = new Lab()
  const { netns } = await home(lab, {})
  const server = await lab.netns('server')
  const net = await lab.net({
    routers: [{ name: 'home', external: ['203.0.113.1'], v4: { nat: {} } }],
    hosts: [
      { name: 'host', realm: 'home', netns, addresses: ['192.168.1.10/24'] },
      { name: 'server', netns: server, addresses: SERVER.map((ip) => `${ip}/24`) },
    ],
  })
  await serve(server, SERVER)
  expect((await probe(netns, SERVER, '5000')).external).toBe('203.0.113.1 5000')
  await net.rebind('home')
  expect((await probe(netns, SERVER, '5000')).external).not.toBe('203.0.113.1 5000')
  await net.external('home', ['203.0.113.77'])
  expect((await probe(netns, SERVER)).external).toMatch(/^203\.0\.113\.77 /)
  await net.block('home', { allExcept: [`${SERVER[0]}:4433`] })
  expect(await probe(netns, SERVER)).toMatchObject({ otherPort: null, otherAddress: null })
  await net.block('home', 'nothing')
  await net.cut('home', 'down')
  expect((await probe(netns, SERVER)).external).toBe(null)
  await net.mend('home', 'both')
  expect((await probe(netns, SERVER)).mapping).toBe('eim')
  expect((await net.stats('home')).down.lost.down).toBeGreaterThan(0)
  await expect(net.block('home', { allExcept: ['nonsense'] })).rejects.toThrow(/IP:PORT/)
})

test('TCP passes a NAT, also when a router on the way says that packets are too big, and a refusal comes back', async () => {
  await using lab = new Lab()
  const { netns } = await home(lab, {})
  const server = await lab.netns('server')
  const net = await lab.net({
    routers: [
      { name: 'isp', external: ['203.0.113.1'], v4: { nat: { ports: 'random' } }, up: { mtu: '1280', 'mtu-signal': 'on' } },
      { name: 'home', outer: 'isp', external: ['100.64.0.2'], v4: { nat: {} } },
    ],
    hosts: [
      { name: 'host', realm: 'home', netns, addresses: ['192.168.1.10/24'] },
      { name: 'server', netns: server, addresses: ['198.51.100.1/24'] },
    ],
  })
  const program = `
    const server = require('net').createServer({ allowHalfOpen: true }, (s) => {
      let bytes = 0
      s.on('data', (data) => (bytes += data.length))
      s.on('end', () => s.end(bytes + ' from ' + s.remoteAddress + '\\n'))
      s.resume(); server.close()
    })
    server.listen({ port: 80, host: '198.51.100.1' }, () => console.error('listening'))`
  const listener = server.spawn(process.execPath, ['-e', program])
  await listener.waitFor(/listening/)
  const client = `
    const s = require('net').connect({ port: 80, host: '198.51.100.1', allowHalfOpen: true }, () => s.end(Buffer.alloc(1_000_000)))
    s.pipe(process.stdout)`
  expect((await netns.run(process.execPath, ['-e', client])).stdout).toBe('1000000 from 203.0.113.1\n')
  expect((await net.stats('isp')).up.lost.mtu).toBeGreaterThan(0)
  // An ICMP error, which has to find its way through both NATs: nothing listens on this UDP port.
  const refused = `
    const s = require('dgram').createSocket('udp4')
    s.on('error', (error) => { console.log(error.code); process.exit() })
    s.connect(9, '198.51.100.1', () => s.send('x'))`
  expect((await netns.run('timeout', ['5', process.execPath, '-e', refused])).stdout).toBe('ECONNREFUSED\n')
})

test('a network that does not exist is refused with its fault', async () => {
  await using lab = new Lab()
  const host = await lab.netns('host')
  const hosts = [{ name: 'host', netns: host, addresses: ['192.168.1.10/24'] }]
  await expect(lab.net({ hosts })).rejects.toThrow(/host: address: "192.168.1.10" is not accepted, expected one that is not of private use/)
})

interface Seen {
  readonly mapping: Mapping | null
  readonly filtering: Filtering
  readonly external: string
  readonly otherPort: string | null
  readonly otherAddress: string | null
}

async function home(lab: Lab, nat: NatSpec): Promise<{ readonly netns: Netns; readonly nat: NatSpec }> {
  return { netns: await lab.netns('home'), nat }
}

async function serve(netns: Netns, ips: readonly string[]): Promise<void> {
  await netns.spawn(process.execPath, [PROBE, 'server', ...ips, ...PORTS], { label: 'probe server' }).waitFor(/listening/)
}

async function probe(netns: Netns, ips: readonly string[], ...sourcePort: readonly string[]): Promise<Seen> {
  const { stdout } = await netns.run(process.execPath, [PROBE, 'client', ...ips, ...PORTS, ...sourcePort])
  return JSON.parse(stdout) as Seen
}
