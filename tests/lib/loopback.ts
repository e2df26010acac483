import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PERMIT_ENG, Trust, type ServiceSpec } from './ztna.ts'

/** Trust for one relay, connectors and the agent alice (group eng) that all run on this machine's loopback: no namespace. */
export class Loopback implements Disposable {
  private constructor(
    readonly dir: string,
    readonly trust: Trust,
    /** `127.0.0.1:PORT`, where r1 has to listen. */
    readonly relayAddress: string,
  ) {}

  static async create(o: { services: readonly ServiceSpec[]; policy?: string }): Promise<Loopback> {
    const dir = mkdtempSync(join(tmpdir(), 'ztna-loopback-'))
    try {
      const port = await freeUdpPort()
      const trust = await Trust.init(dir)
      for (const service of o.services) trust.addService(service)
      trust.setPolicy(o.policy ?? PERMIT_ENG)
      await trust.issue('relay', 'r1', { urls: [`https://127.0.0.1:${port}`] })
      const connectors = new Set(o.services.flatMap(({ connectors = ['c1'] }) => connectors))
      for (const name of connectors) await trust.issue('connector', name)
      await trust.issue('agent', 'alice', { groups: ['eng'] })
      await trust.publish()
      return new Loopback(dir, trust, `127.0.0.1:${port}`)
    } catch (error) {
      rmSync(dir, { recursive: true, force: true })
      throw error
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** The relay's URL is in everybody's network.toml before the relay runs, so its port has to be known by then. */
async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  await once(socket, 'close')
  return port
}
