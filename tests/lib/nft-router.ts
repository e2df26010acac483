import type { Filtering, Mapping, NatSpec, Policy, RouterSpec } from './net.ts'

/** External ports of the recipes that don't keep the inside port. */
const PORTS = { first: 20_000, count: 10_000 } as const
/** Of what a filter has learned: longer than Linux keeps a UDP flow (120 s). */
const REMEMBERED = '300s'

/**
 * nft rules that make a namespace with `wan` outside and any other interfaces inside the router that `spec` describes.
 * Throws on what the recipes can't make: translation of IPv6, other filters of a firewall than APDF,
 * hairpin with other filters than EIF.
 */
export function nftRules(spec: Pick<RouterSpec, 'name' | 'external' | 'v4' | 'v6' | 'block'>): string {
  const { name, external = [], v4 = 'none', v6 = 'none', block = 'nothing' } = spec
  const wan = external.find((address) => !address.includes(':'))
  const nat = natOf(v4)
  if (natOf(v6)) throw new Error(`${name}: the kernel's routers translate no IPv6`)
  if (nat?.hairpin === true && nat.filtering !== 'eif') throw new Error(`${name}: the kernel's routers hairpin with EIF alone`)
  if (nat && wan === undefined) throw new Error(`${name}: a NAT needs an external address`)
  return [nat && wan !== undefined ? translation(wan, nat) : '', passage('ip', name, v4, block), passage('ip6', name, v6, block)].join('\n')
}

function natOf(policy: Policy): NatSpec | undefined {
  return typeof policy === 'object' && 'nat' in policy ? policy.nat : undefined
}

/**
 * Linux alone lets answers in only (APDF). Wider filters learn the external port after translation, and map it back for anybody
 * (EIF), or for the addresses that were sent to (ADF). With `hairpin` the port is mapped back for senders inside as well, and they
 * are seen by their own external address.
 */
function translation(wan: string, { mapping = 'eim', filtering = 'apdf', ports = 'preserve', hairpin = false }: NatSpec): string {
  const from = hairpin ? '' : 'iifname "wan" '
  const inward: Readonly<Record<Filtering, string>> = {
    eif: `${from}ip daddr ${wan} meta l4proto udp dnat ip to udp dport map @ports`,
    adf: `${from}ip daddr ${wan} meta l4proto udp udp dport . ip saddr @contacted dnat ip to udp dport map @ports`,
    apdf: '',
  }
  const outward = source(wan, mapping, ports)
  return `table ip translation {
  map ports { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout ${REMEMBERED}; size 65535; }
  set contacted { type inet_service . ipv4_addr; flags dynamic,timeout; timeout ${REMEMBERED}; size 65535; }
  chain inward {
    type nat hook prerouting priority dstnat; policy accept;
    ${inward[filtering]}
  }
  chain outward {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan" meta l4proto udp ${outward}
    oifname "wan" snat to ${wan}
    ${hairpin ? `iifname != "wan" oifname != "wan" ct status dnat meta l4proto udp ${outward}` : ''}
  }
  chain learn {
    type filter hook postrouting priority 110; policy accept;
    oifname "wan" meta l4proto udp ct direction original update @ports { ct reply proto-dst timeout ${REMEMBERED} : ct original ip saddr . ct original proto-src }
    oifname "wan" meta l4proto udp ct direction original update @contacted { ct reply proto-dst . ct original ip daddr timeout ${REMEMBERED} }
  }
}`
}

/** The rule that gives a UDP flow its external port. A hash over what a mapping depends on makes it depend on that and nothing else. */
function source(wan: string, mapping: Mapping, ports: NonNullable<NatSpec['ports']>): string {
  const { first, count } = PORTS
  const hash = (fields: string): string => `snat to ${wan} : jhash ${fields} mod ${count} seed 0x5eed offset ${first}`
  switch (mapping) {
    case 'eim':
      return ports === 'preserve' ? `snat to ${wan}` : `snat to ${wan}:${first}-${first + count - 1}`
    case 'adm':
      return hash('ip daddr . udp sport')
    case 'apdm':
      return ports === 'random' ? 'masquerade fully-random' : hash('ip daddr . udp dport . udp sport')
  }
}

/** What passes between inside and outside, whatever is translated. */
function passage(family: 'ip' | 'ip6', name: string, policy: Policy, block: NonNullable<RouterSpec['block']>): string {
  return `table ${family} passage {
  chain input {
    type filter hook input priority 0; policy accept;
    ${/* Else a packet from the peer before ours is confirmed as a connection to the router itself, and holds our port. */ ''}
    meta l4proto udp ct state new drop
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ${blocked(family, block).join('\n    ')}
    ${forwarded(name, policy).join('\n    ')}
  }
}`
}

function forwarded(name: string, policy: Policy): readonly string[] {
  const closed = ['iifname "wan" ct state established,related accept', 'iifname "wan" ct status dnat accept', 'iifname "wan" drop']
  if (policy === 'open') return []
  if (policy === 'none') return ['iifname "wan" drop', 'oifname "wan" drop']
  if ('firewall' in policy) {
    if ((policy.firewall.filtering ?? 'apdf') !== 'apdf') throw new Error(`${name}: the kernel's firewall lets answers in only`)
    return closed
  }
  return closed
}

function blocked(family: 'ip' | 'ip6', block: NonNullable<RouterSpec['block']>): readonly string[] {
  if (block === 'nothing') return []
  const except = block === 'all' ? [] : block.allExcept.map(endpoint).filter(({ ip }) => ip.includes(':') === (family === 'ip6'))
  return [
    ...except.flatMap(({ ip, port }) => [
      `oifname "wan" ${family} daddr ${ip} udp dport ${port} accept`,
      `iifname "wan" ${family} saddr ${ip} udp sport ${port} ct state established accept`,
    ]),
    'oifname "wan" meta l4proto udp drop',
    'iifname "wan" meta l4proto udp drop',
  ]
}

/** `192.0.2.1:4433` or `[2001:db8::1]:4433`. */
function endpoint(text: string): { ip: string; port: string } {
  const match = /^(?:\[(.+)\]|([^:]+)):(\d+)$/.exec(text)
  const [, v6, v4, port] = match ?? []
  const ip = v6 ?? v4
  if (ip === undefined || port === undefined) throw new Error(`${JSON.stringify(text)} is not IP:PORT`)
  return { ip, port }
}
