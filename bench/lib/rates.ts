import type { Netns } from '../../tests/lib/netns.ts'
import { listening, until } from '../../tests/lib/programs.ts'
import type { Proc } from '../../tests/lib/proc.ts'

/** Length of an interval, milliseconds: the least that iperf3 takes. */
export const INTERVAL = 100

/** One TCP flow of iperf3, as its receiving end tells of it ten times a second. */
export class Rates {
  #client: Proc
  #receiver: Proc

  private constructor(client: Proc, receiver: Proc) {
    this.#client = client
    this.#receiver = receiver
  }

  /** From `client`, by `port` of its own 127.0.0.1, to the same port of `server`, or the other way; resolves when the first bytes are in. */
  static async start(client: Netns, server: Netns, port: number, way: 'up' | 'down', seconds: number): Promise<Rates> {
    const each = ['-p', String(port), '-i', String(INTERVAL / 1000), '-f', 'k', '--forceflush']
    const far = server.spawn('iperf3', ['-s', '-1', '-B', '127.0.0.1', ...each], { label: 'iperf3 -s' })
    await listening(server, port, far)
    const args = ['-c', '127.0.0.1', '-C', 'cubic', '-t', String(seconds), ...(way === 'down' ? ['-R'] : []), ...each]
    const near = client.spawn('iperf3', args, { label: 'iperf3 -c' })
    const rates = new Rates(near, way === 'down' ? near : far)
    await until('iperf3 receives', () => {
      if (near.exit) throw new Error(`iperf3 ended\n${near.tail()}`)
      return rates.gbitPerSecond().length > 0
    })
    return rates
  }

  /** Of each interval so far. */
  gbitPerSecond(): number[] {
    const line = /^\[ *\d+\] +[\d.]+-[\d.]+ +sec .* (\d+|\d*\.\d+) Kbits\/sec *$/
    return this.#receiver.lines.flatMap((text) => {
      const rate = line.exec(text)?.[1]
      return rate === undefined ? [] : [Number(rate) / 1e6]
    })
  }

  /** When the time is over: of each interval. */
  async ended(): Promise<number[]> {
    const { code } = await this.#client.exited
    if (code !== 0) throw new Error(`iperf3 ended with ${code ?? 'a signal'}\n${this.#client.tail()}`)
    return this.gbitPerSecond()
  }
}
