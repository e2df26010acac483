import { iperf3Server, nginx } from '../../tests/lib/programs.ts'
import { Topology } from '../../tests/lib/topology.ts'

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
