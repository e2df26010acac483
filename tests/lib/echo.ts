import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'

/** A TCP service on this machine's loopback that sends back what it gets. */
export class Echo implements Disposable {
  private constructor(readonly server: Server) {}

  static async create(): Promise<Echo> {
    const server = createServer((socket) => void socket.on('error', () => undefined).pipe(socket))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Echo(server)
  }

  /** `127.0.0.1:PORT` */
  get address(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  [Symbol.dispose](): void {
    this.server.close()
  }
}

/** A connection to `HOST:PORT`, whose later errors are nobody's. */
export async function open(address: string): Promise<Socket> {
  const [host, port] = address.split(':')
  const socket = connect(Number(port), host)
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

/** Sends `text` and reads as many bytes back. */
export async function ask(socket: Socket, text: string): Promise<string> {
  socket.write(text)
  let answer = ''
  while (answer.length < text.length) {
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(20_000) })) as [Buffer]
    answer += chunk.toString()
  }
  return answer
}
