import type { Netns } from '../../tests/lib/netns.ts'
import type { RoleProc } from '../../tests/lib/ztna.ts'
import { busySeconds } from './measure.ts'

export interface Transfer {
  readonly gbitPerSecond: number
  /** CPU seconds of the whole machine for each GB delivered. */
  readonly cpuPerGB: number
  /** The same for one process alone. */
  readonly processCpuPerGB: number
}

/** One TCP flow of iperf3 for `seconds` from `from` to port `port` of its own 127.0.0.1, or of `host`. Cubic: the kernel's default may be BBR. */
export async function transfer(
  from: Netns,
  port: number,
  o: { seconds?: number; reverse?: boolean; process?: RoleProc; host?: string } = {},
): Promise<Transfer> {
  const seconds = o.seconds ?? 8
  const args = [
    '-c',
    o.host ?? '127.0.0.1',
    '-p',
    String(port),
    '-C',
    'cubic',
    '-t',
    String(seconds),
    '-J',
    ...(o.reverse === true ? ['-R'] : []),
  ]
  const [busy, own] = [busySeconds(), o.process?.proc.cpuSeconds() ?? 0]
  const { stdout } = await from.run('iperf3', args, { timeoutMs: (seconds + 30) * 1000, codes: 'any' })
  const spent = busySeconds() - busy
  const ownSpent = (o.process?.proc.cpuSeconds() ?? 0) - own
  const report = JSON.parse(stdout) as { error?: string; end: { sum_received?: { bytes: number; bits_per_second: number } } }
  const received = report.end.sum_received
  if (report.error !== undefined || received === undefined) throw new Error(`iperf3: ${report.error ?? 'no result'}`)
  const gb = received.bytes / 1e9
  return { gbitPerSecond: received.bits_per_second / 1e9, cpuPerGB: spent / gb, processCpuPerGB: ownSpent / gb }
}
