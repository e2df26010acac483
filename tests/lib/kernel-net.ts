import type { HostSpec, NetSpec, RouterSpec } from './net.ts'
import type { Lab, Netns } from './netns.ts'
import { nftRules } from './nft-router.ts'
import { run } from './proc.ts'

/**
 * Builds of namespaces, veth pairs and nft what `lab.net` builds in user space: every router is a namespace, and so is the
 * Internet. Routers forward; hosts of one realm reach each other through it, without translation. It has no delay and no loss: a
 * description with impairments is refused.
 */
export async function kernelNet(lab: Lab, spec: NetSpec): Promise<void> {
  const routers = spec.routers ?? []
  for (const part of [...routers, ...spec.hosts]) {
    if (part.up !== undefined || part.down !== undefined) throw new Error(`${part.name}: the kernel's network has no impairments`)
  }
  const realms = new Map<string, Realm>([['internet', { netns: await router(lab, 'internet'), number: 0, ports: 0 }]])
  for (const described of routers) await addRouter(lab, realms, described)
  for (const host of spec.hosts) await addHost(realms, host, routers)
}

interface Realm {
  readonly netns: Netns
  /** Its place among the realms: its router's addresses on its inner links are made of it. */
  readonly number: number
  ports: number
}

/** Link-local addresses of a realm's router, and of a router that is behind it. Per realm, as no router may have its gateway's own. */
const gateway = (number: number): readonly [string, string] => [`169.254.${number}.1`, `fe80::${number + 1}:1`]
const member = (number: number): readonly [string, string] => [`169.254.${number}.2`, `fe80::${number + 1}:2`]

async function router(lab: Lab, name: string): Promise<Netns> {
  const netns = await lab.netns(name)
  const settings = ['ipv4/ip_forward', 'ipv6/conf/all/forwarding']
  await run(netns, 'sh', ['-c', settings.map((setting) => `echo 1 > /proc/sys/net/${setting}`).join('; ')])
  return netns
}

async function addRouter(lab: Lab, realms: Map<string, Realm>, spec: RouterSpec): Promise<void> {
  const outer = realmOf(realms, spec.outer)
  const netns = await router(lab, spec.name)
  const port = await plug(outer, netns, 'wan', `to-${spec.name}`)
  const [v4, v6] = member(outer.number)
  const [gateway4, gateway6] = gateway(outer.number)
  const external = spec.external ?? []
  await ip(netns, [
    `address add ${v4}/32 dev wan`,
    `address add ${v6}/64 dev wan nodad`,
    ...external.map((address) => `address add ${address}${full(address)} dev wan`),
    `route add default via ${gateway4} dev wan onlink`,
    `route add ::/0 via ${gateway6} dev wan`,
  ])
  await ip(
    outer.netns,
    external.map((address) => `route add ${address}${full(address)} dev ${port}`),
  )
  await run(netns, 'nft', ['-f', '-'], { input: nftRules(spec), label: `nft ${spec.name}` })
  realms.set(spec.name, { netns, number: realms.size, ports: 0 })
}

async function addHost(realms: ReadonlyMap<string, Realm>, host: HostSpec, routers: readonly RouterSpec[]): Promise<void> {
  const realm = realmOf(realms, host.realm)
  const { interface: device = 'eth0' } = host
  const port = await plug(realm, host.netns, device, `host${(realm.ports += 1)}`)
  const [gateway4, gateway6] = gateway(realm.number)
  const addresses = host.addresses.map((address) => address.split('/')[0] ?? '')
  await ip(
    host.netns,
    addresses.map((address) => `address add ${address}${full(address)} dev ${device} ${address.includes(':') ? 'nodad' : ''}`),
  )
  // A second interface of a namespace does not take the default route from the first.
  const has = (family: 4 | 6): boolean => addresses.some((address) => address.includes(':') === (family === 6))
  await ip(host.netns, [
    ...(has(4) ? [`route append default via ${gateway4} dev ${device} onlink`] : []),
    ...(has(6) ? [`route append ::/0 via ${gateway6} dev ${device}`] : []),
  ])
  await ip(
    realm.netns,
    addresses.map((address) => `route add ${address}${full(address)} dev ${port}`),
  )
  for (const address of addresses) await announce(realms, address, host.realm, routers)
}

/** Routes to an address from outside, as far out as routers leave it as it is. */
async function announce(
  realms: ReadonlyMap<string, Realm>,
  address: string,
  from: string | undefined,
  routers: readonly RouterSpec[],
): Promise<void> {
  const spec = routers.find(({ name }) => name === from)
  if (!spec) return
  const policy = (address.includes(':') ? spec.v6 : spec.v4) ?? 'none'
  if (policy === 'none' || (typeof policy === 'object' && 'nat' in policy)) return
  const outer = realmOf(realms, spec.outer)
  const [v4, v6] = member(outer.number)
  const via = address.includes(':') ? v6 : `${v4} onlink`
  await ip(outer.netns, [`route add ${address}${full(address)} via ${via} dev to-${spec.name}`])
  await announce(realms, address, spec.outer, routers)
}

/** A veth pair between `device` of a namespace and `port` of the realm that it is in; returns `port`. */
async function plug(realm: Realm, netns: Netns, device: string, port: string): Promise<string> {
  if (port.length > 15) throw new Error(`${port}: an interface's name has 15 characters at most`)
  const [v4, v6] = gateway(realm.number)
  await run(null, 'ip', ['-n', netns.name, 'link', 'add', device, 'type', 'veth', 'peer', 'name', port, 'netns', realm.netns.name])
  await ip(netns, [`link set ${device} up`])
  await ip(realm.netns, [`address add ${v4}/32 dev ${port}`, `address add ${v6}/64 dev ${port} nodad`, `link set ${port} up`])
  return port
}

/** Commands of `ip`, all in one process. */
async function ip(netns: Netns, lines: readonly string[]): Promise<void> {
  if (lines.length === 0) return
  await run(null, 'ip', ['-n', netns.name, '-batch', '-'], {
    input: `${lines.join('\n')}\n`,
    label: `ip in ${netns.name}: ${lines.join('; ')}`,
  })
}

function realmOf(realms: ReadonlyMap<string, Realm>, name = 'internet'): Realm {
  const realm = realms.get(name)
  if (!realm) throw new Error(`no realm ${name}`)
  return realm
}

const full = (address: string): string => (address.includes(':') ? '/128' : '/32')
