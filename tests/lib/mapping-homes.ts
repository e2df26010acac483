import { writeFileSync } from 'node:fs'
import { Lab, type Netns } from './netns.ts'
import { orDispose } from './or-dispose.ts'
import type { Proc } from './proc.ts'
import { until } from './programs.ts'
import { PERMIT_ENG, startRole, Trust, type RoleProc } from './ztna.ts'
import type { PathExplanation } from '@ztna/sdk'

/**
 * What a home's router does for a host that asks for a port. `pcp`: PCP and NAT-PMP. `nat-pmp`: the older of the two alone. `upnp`: UPnP alone.
 * `silent`: questions vanish. `refuses`: nobody listens.
 */
export type Router = 'pcp' | 'nat-pmp' | 'upnp' | 'silent' | 'refuses'

export interface MappingHomesSpec {
  readonly alice: Router
  readonly c1: Router
  /** Address of alice's router outside; default public. */
  readonly aliceOutside?: string
}

/** Not the documentation's: miniupnpd opens no port on an address that it knows to be nobody's. */
const RELAY = '45.90.0.1'

/**
 * ```text
 *  alice 192.168.1.10 ── router 45.90.1.1 ──┐
 *                                           ├── internet ── relay r1 45.90.0.1
 *  c1    192.168.2.10 ── router 45.90.2.1 ──┘
 * ```
 * The routers are the kernel's own (nftables), both hard: each destination gets another port, and only where a port has sent to may send back.
 * Without a port that one of them opens there is no direct path.
 */
export class MappingHomes implements AsyncDisposable {
  readonly daemons = new Map<string, Proc>()
  readonly #places = new Map<string, Netns>()

  private constructor(
    readonly lab: Lab,
    readonly trust: Trust,
  ) {}

  static async create(spec: MappingHomesSpec): Promise<MappingHomes> {
    const lab = new Lab()
    return await orDispose(lab, async () => {
      const homes = new MappingHomes(lab, await Trust.init(`${lab.dir}/pki`))
      await homes.#build(spec)
      return homes
    })
  }

  place(name: string): Netns {
    const found = this.#places.get(name)
    if (!found) throw new Error(`no ${name}`)
    return found
  }

  /** Resolves once the role is online. */
  async role(role: 'relay' | 'connector' | 'agent', name: string, args: readonly string[] = []): Promise<RoleProc> {
    const started = startRole(this.lab, this.place(name), role, name, this.trust.out(role, name), args)
    await started.online()
    return started
  }

  async relay(): Promise<RoleProc> {
    return await this.role('relay', 'r1', ['--listen', `${RELAY}:4433`, '--stun-alt', `${RELAY}:4434`])
  }

  /** The ports that a router has opened: one line of its rules each. */
  async openPorts(name: string): Promise<string[]> {
    const { stdout } = await this.place(`router-${name}`).run('nft', ['list', 'chain', 'inet', 'home', 'prerouting_mapped'])
    return stdout.split('\n').filter((line) => line.includes('dnat'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]()
  }

  async #build(spec: MappingHomesSpec): Promise<void> {
    const { lab, trust } = this
    for (const name of ['r1', 'alice', 'c1', 'router-alice', 'router-c1', 'internet']) this.#places.set(name, await lab.netns(name))
    const internet = this.place('internet')
    await forwards(internet)
    await lab.veth(
      { netns: this.place('r1'), interface: 'wan', addresses: [`${RELAY}/24`] },
      { netns: internet, interface: 'r1', addresses: ['45.90.0.254/24'] },
    )
    await lab.route(this.place('r1'), 'default', '45.90.0.254')
    await this.#home('alice', 1, spec.alice, spec.aliceOutside ?? '45.90.1.1')
    await this.#home('c1', 2, spec.c1, '45.90.2.1')
    trust.addService({ name: 'web', connectors: ['c1'], tcp: [80] })
    trust.setPolicy(PERMIT_ENG)
    await trust.issueThree([`https://${RELAY}:4433`])
  }

  async #home(name: string, number: number, kind: Router, outside: string): Promise<void> {
    const { lab } = this
    const [host, router, internet] = [this.place(name), this.place(`router-${name}`), this.place('internet')]
    const beyond = outside.replace(/\.\d+$/, '.254')
    await forwards(router)
    await lab.veth(
      { netns: host, interface: 'eth0', addresses: [`192.168.${number}.10/24`] },
      { netns: router, interface: 'lan', addresses: [`192.168.${number}.1/24`] },
    )
    await lab.veth(
      { netns: router, interface: 'wan', addresses: [`${outside}/24`] },
      { netns: internet, interface: `home${number}`, addresses: [`${beyond}/24`] },
    )
    await lab.route(host, 'default', `192.168.${number}.1`)
    await lab.route(router, 'default', beyond)
    const rules = `${lab.dir}/${name}.nft`
    writeFileSync(rules, ruleset(kind))
    await router.run('nft', ['-f', rules])
    if (kind === 'silent' || kind === 'refuses') return
    const file = `${lab.dir}/${name}-miniupnpd.conf`
    writeFileSync(file, miniupnpd(kind, number))
    this.daemons.set(name, await daemon(lab, router, file, `${lab.dir}/${name}-miniupnpd.pid`))
  }
}

async function daemon(lab: Lab, router: Netns, file: string, pid: string): Promise<Proc> {
  const proc = lab.spawn(router, 'miniupnpd', ['-d', '-f', file, '-P', pid])
  // 5351: PCP and NAT-PMP; 1900: SSDP.
  await until('miniupnpd listens', async () => /:(5351|1900)\b/.test((await router.run('ss', ['-lun'])).stdout))
  return proc
}

async function forwards(netns: Netns): Promise<void> {
  await netns.run('sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
}

/** `ct state new` to the router itself is dropped: else a peer's early packet would take the port that our mapping is to have. */
function ruleset(kind: Router): string {
  const questions = {
    silent: 'iifname "lan" udp dport { 1900, 5351 } drop',
    // The first byte of PCP is its version, 2; of NAT-PMP, 0.
    'nat-pmp': 'iifname "lan" udp dport 5351 @th,64,8 2 drop',
    pcp: '',
    upnp: '',
    refuses: '',
  }[kind]
  return `table inet home {
  chain mapped { }
  chain prerouting_mapped { }
  chain postrouting_mapped { }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "wan" ct state new drop
    ${questions}
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "lan" accept
    ct state established,related accept
    jump mapped
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    jump prerouting_mapped
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    jump postrouting_mapped
    oifname "wan" meta l4proto { tcp, udp } masquerade fully-random
  }
}
`
}

function miniupnpd(kind: Router, number: number): string {
  const yes = (on: boolean): string => (on ? 'yes' : 'no')
  return `ext_ifname=wan
listening_ip=lan
enable_natpmp=${yes(kind !== 'upnp')}
enable_upnp=${yes(kind === 'upnp')}
secure_mode=yes
uuid=00000000-0000-4000-8000-00000000000${number}
upnp_table_name=home
upnp_nat_table_name=home
upnp_forward_chain=mapped
upnp_nat_chain=prerouting_mapped
upnp_nat_postrouting_chain=postrouting_mapped
allow 1024-65535 192.168.${number}.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`
}

/** What an agent says of its path to `web`. */
export async function explain(agent: RoleProc): Promise<PathExplanation> {
  return (await agent.ask('explain', 'web')) as unknown as PathExplanation
}
