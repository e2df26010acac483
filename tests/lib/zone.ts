import { createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import type { ZtnaAgent, ZtnaConnector } from '@ztna/sdk'
import type { TestNetwork } from '@ztna/sdk/testing'
import { inMemory } from './memory.ts'

/** The agent alice and the connector c1 on a network in memory. Alice may reach every service but `locked`; `refused` has nobody behind it. */
export class Zone implements AsyncDisposable {
  private constructor(
    readonly network: TestNetwork,
    readonly connector: ZtnaConnector,
    readonly agent: ZtnaAgent,
  ) {}

  /** `services`: names and TCP ports. */
  static async create(services: Readonly<Record<string, readonly number[]>>): Promise<Zone> {
    const all = { ...services, locked: [80, 443], refused: [80, 443] }
    const { network, connector, agent } = await inMemory({
      services: Object.fromEntries(Object.entries(all).map(([name, tcp]) => [name, { tcp: [...tcp] }])),
      policy: 'permit(principal, action, resource) unless { resource == Service::"locked" };\n',
    })
    try {
      const closed = await unusedPort()
      for (const port of [80, 443]) await connector.serve('refused', { target: `tcp://127.0.0.1:${closed}` }, { port })
      return new Zone(network, connector, agent)
    } catch (error) {
      await network.close()
      throw error
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.network.close()
  }
}

/** A server of this machine, outside the zone: what a client dials past the tunnel, it counts. */
export class Outside implements Disposable {
  #count = 0
  private constructor(
    readonly server: Server,
    readonly port: number,
  ) {
    server.on('connection', (socket: Socket) => {
      this.#count += 1
      socket.on('error', () => {}).end('HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
    })
  }

  static async create(): Promise<Outside> {
    const server = createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Outside(server, portOf(server))
  }

  /** Connections until now. */
  get dialled(): number {
    return this.#count
  }

  [Symbol.dispose](): void {
    this.server.close()
  }
}

async function unusedPort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const port = portOf(server)
  server.close()
  await once(server, 'close')
  return port
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('not listening on a port')
  return address.port
}
