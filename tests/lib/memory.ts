import { once } from 'node:events'
import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { type Handler, type Served, type ServeOptions, ZtnaAgent, ZtnaConnector, type ZtnaError } from '@ztna/sdk'
import { createTestNetwork, type TestNetwork, type TestNetworkOptions } from '@ztna/sdk/testing'

/** A network in memory in this process, with its connector c1 and its agent alice started. Whoever closes the network closes them. */
export async function inMemory(
  options: TestNetworkOptions,
): Promise<{ readonly network: TestNetwork; readonly connector: ZtnaConnector; readonly agent: ZtnaAgent }> {
  const network = await createTestNetwork(options)
  try {
    const connector = await new ZtnaConnector(network.connector('c1')).start()
    return { network, connector, agent: await new ZtnaAgent(network.agent('alice')).start() }
  } catch (error) {
    await network.close()
    throw error
  }
}

/** Relay, connector c1 and the agents alice (group eng) and bob (no group) on a network in memory, all in this process. */
export class Memory implements AsyncDisposable {
  /** What the connector has warned of. */
  readonly warnings: ZtnaError[] = []
  /** Past what fetch calls bad ports. */
  #port = 7_000

  private constructor(
    readonly net: TestNetwork,
    readonly connector: ZtnaConnector,
    readonly agent: ZtnaAgent,
  ) {
    connector.on('warning', (error) => this.warnings.push(error))
  }

  static async create(): Promise<Memory> {
    const { network, connector, agent } = await inMemory({
      agents: { alice: { groups: ['eng'] }, bob: {} },
      services: { web: { tcp: ['7000-7999'], udp: ['7000-7999'] } },
    })
    return new Memory(network, connector, agent)
  }

  /** Serves a handler at a port of `web` of its own. */
  async serve(handler: Handler, options: ServeOptions = {}): Promise<{ served: Served; port: number; url: string; to: string }> {
    const port = ++this.#port
    const served = await this.connector.serve('web', handler, { ...options, port })
    return { served, port, url: `http://web.ztna.internal:${port}/`, to: `web:${port}` }
  }

  /** All that comes back for these bytes until the other end has ended; our side stays open. */
  async exchange(to: string, bytes: string): Promise<string> {
    const socket = await this.agent.connect({ ...target(to), allowHalfOpen: true })
    let text = ''
    socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
    socket.write(bytes)
    try {
      await once(socket, 'end')
    } finally {
      socket.destroy()
    }
    return text
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.net.close()
  }
}

function target(to: string): { service: string; port: number } {
  const [service = '', port] = to.split(':')
  return { service, port: Number(port) }
}

/** TCP ports that this process listens on, as the kernel knows them. */
export function listeningPorts(): number[] {
  const own = new Set<string>()
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1]
      if (inode !== undefined) own.add(inode)
    } catch {
      // Closed since it was listed.
    }
  }
  const lines = ['/proc/self/net/tcp', '/proc/self/net/tcp6'].flatMap((file) => readFileSync(file, 'utf8').trim().split('\n').slice(1))
  return lines.flatMap((line) => {
    const [, local = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/)
    return state === LISTEN && own.has(inode) ? [Number.parseInt(local.split(':')[1] ?? '', 16)] : []
  })
}

/** Of the kernel's `enum` of TCP states. */
const LISTEN = '0A'
