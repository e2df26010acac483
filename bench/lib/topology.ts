import { run } from '../../tests/lib/proc.ts'
import { orDispose } from '../../tests/lib/or-dispose.ts'
import { iperf3Server, nginx, until } from '../../tests/lib/programs.ts'
import { Topology, type TopologySpec } from '../../tests/lib/topology.ts'
import type { RoleProc } from '../../tests/lib/ztna.ts'

/** How inner packets pass the relay. */
export type Mode = 'forwarded' | 'tunnel'

/** Agent, relay and connector in their namespaces, with iperf3 (bulk) and nginx (web) beside the connector and forwards to both. */
export async function topology(mode: Mode, wire?: { delay: string; rate: string; loss: string; queue: string }): Promise<Topology> {
  const t = await Topology.create({
    services: [
      { name: 'bulk', tcp: [5201] },
      { name: 'web', tcp: [80] },
    ],
    ...(wire === undefined ? {} : { wire: { agent: { ...wire, seed: 7 } } }),
    networkToml: mode === 'tunnel' ? 'relay_mode = "tunnel"\n' : '',
  })
  await iperf3Server(t.place('c1'), 5201)
  await nginx(t.place('c1'), 8080)
  return t.start(
    ['bulk=tcp:5201:127.0.0.1:5201', 'web=tcp:80:127.0.0.1:8080'],
    ['tcp:127.0.0.1:5201=bulk:5201', 'tcp:127.0.0.1:8080=web:80'],
  )
}

/** The same namespaces, and the one of relay r1 is a router besides: all nodes reach each other through it, without its relay. No role runs yet. */
export async function routed(spec: TopologySpec): Promise<Topology> {
  const t = await Topology.create(spec)
  return await orDispose(t, async () => {
    await run(t.place('r1'), 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
    for (const name of [...t.agentNames, ...t.connectorNames]) await t.lab.route(t.place(name), 'default', t.gateway(name))
    return t
  })
}

/** `direct`, `relay` or `none`: how an agent reaches its one connector now. */
export async function pathOf(agent: RoleProc): Promise<string | undefined> {
  const status = (await agent.status()) as { connectors?: readonly { path: { kind: string } }[] }
  return status.connectors?.[0]?.path.kind
}

/** Opens the inner connection of `agent` to the connector of `service` and waits until its path is direct. */
export async function goDirect(agent: RoleProc, service: string): Promise<void> {
  await agent.ask('ping', service)
  await until(`${agent.name} is direct`, async () => (await pathOf(agent)) === 'direct')
}
