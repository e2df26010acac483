import { background, tcpServer } from '../../tests/lib/peers.ts'
import { Topology } from '../../tests/lib/topology.ts'
import { privateBytes, row, type Row } from '../lib/measure.ts'

/** What 1,000 flows that have carried a byte and then nothing cost the connector, and the agent, in memory of their own. */
export async function idleFlows(): Promise<Row[]> {
  // The few before them load code and fill the first pages of every pool; more would hide what the thousand take.
  const [warmUp, flows] = [32, 1_000]
  await using t = await Topology.create({ services: [{ name: 'echo', tcp: [7] }] })
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:7')
  await t.start(['echo=tcp:7:127.0.0.1:7'], ['tcp:127.0.0.1:7=echo:7'])
  const [connector, agent] = [t.connectors.get('c1')?.proc, t.agents.get('alice')?.proc]
  if (!connector || !agent) throw new Error('a role is missing')
  const proc = background(t.place('alice'), 'idle-flows.mjs', ['127.0.0.1:7', String(warmUp), String(flows)])
  const memory = async (): Promise<{ connector: number; agent: number }> => {
    await new Promise((resolve) => setTimeout(resolve, 3_000))
    return { connector: privateBytes(connector.pid), agent: privateBytes(agent.pid) }
  }
  await proc.waitFor(/"open":32/)
  proc.write('\n')
  await proc.waitFor(/"closed":32/)
  const before = await memory()
  proc.write('\n')
  await proc.waitFor(/"open":1000/, { timeoutMs: 60_000 })
  const open = await memory()
  proc.write('\n')
  await proc.waitFor(/"closed":1000/, { timeoutMs: 60_000 })
  const after = await memory()
  const kilobytes = (of: 'connector' | 'agent', now: typeof before): number => (now[of] - before[of]) / flows / 1024
  const figures = {
    'KB a flow': kilobytes('connector', open),
    'KB a flow, agent': kilobytes('agent', open),
    'KB a flow still held once they have ended': kilobytes('connector', after),
    'MB connector before': before.connector / 2 ** 20,
  }
  return [row(`connector, ${flows} idle flows`, figures, [['KB a flow', '<=', 16]], 'private memory; TCP by forward to a dialled service')]
}
