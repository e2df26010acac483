import { Lab } from '../../tests/lib/netns.ts'
import { run } from '../../tests/lib/proc.ts'
import { iperf3Server } from '../../tests/lib/programs.ts'
import { row, type Row } from '../lib/measure.ts'
import { sshForward, stunnel } from '../lib/peers.ts'
import { transfer } from '../lib/transfer.ts'

/** What else one could have used, over the same veth pairs, with the namespace between as a router. */
export async function beside(): Promise<Row[]> {
  await using lab = new Lab()
  const [a, r, c] = [await lab.netns('a'), await lab.netns('r'), await lab.netns('c')]
  await lab.veth({ netns: a, interface: 'eth0', addresses: ['10.1.0.1/24'] }, { netns: r, interface: 'eth0', addresses: ['10.1.0.2/24'] })
  await lab.veth({ netns: c, interface: 'eth0', addresses: ['10.2.0.1/24'] }, { netns: r, interface: 'eth1', addresses: ['10.2.0.2/24'] })
  await run(r, 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
  await lab.route(a, 'default', '10.1.0.2')
  await lab.route(c, 'default', '10.2.0.2')
  await iperf3Server(c, 5201)
  await stunnel(lab, a, c, '10.2.0.1', 6001, 5201)
  await sshForward(lab, a, c, '10.2.0.1', 6002, 5201)
  const rows: Row[] = []
  for (const [name, port] of [
    ['stunnel', 6001],
    ['ssh -L', 6002],
  ] as const) {
    const { gbitPerSecond, cpuPerGB } = await transfer(a, port)
    rows.push(row(`beside it: ${name}, up`, { 'Gbit/s': gbitPerSecond, 'CPU-s/GB': cpuPerGB }, [], 'a router between, nothing relayed'))
  }
  return rows
}
