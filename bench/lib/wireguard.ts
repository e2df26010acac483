import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Lab, Netns } from '../../tests/lib/netns.ts'
import { run } from '../../tests/lib/proc.ts'
import { until } from '../../tests/lib/programs.ts'

/** One end of the tunnel: where it runs, the address of its namespace that the other reaches, and the one inside the tunnel. */
export interface TunnelEnd {
  readonly netns: Netns
  readonly outside: string
  readonly inside: string
}

/** Both ends listen here. */
const PORT = 51820
/** Where wireguard-go puts its control sockets, whatever the namespace. */
const SOCKETS = '/var/run/wireguard'

/** wireguard-go at both ends, as its own defaults have it (MTU 1420); resolves when a packet has gone through. */
export async function wireguard(lab: Lab, a: TunnelEnd, b: TunnelEnd): Promise<void> {
  const program = await build(lab)
  const ends = [a, b].map(({ netns, outside, inside }, i) => {
    return { netns, outside, inside, name: `wg${process.pid}${'ab'[i] ?? ''}`, key: keyPair() }
  })
  for (const [i, end] of ends.entries()) {
    const peer = ends[1 - i]
    if (peer === undefined) throw new Error('a tunnel has two ends')
    const socket = join(SOCKETS, `${end.name}.sock`)
    lab.defer(() => Promise.resolve(rmSync(socket, { force: true })))
    const proc = lab.spawn(end.netns, program, ['-f', end.name], { label: `wireguard-go ${end.name}`, env: { LOG_LEVEL: 'error' } })
    await until(`${end.name} can be configured`, () => {
      if (proc.exit) throw new Error(`wireguard-go ended\n${proc.tail()}`)
      return existsSync(socket)
    })
    await configure(socket, [
      ['private_key', end.key.own],
      ['listen_port', String(PORT)],
      ['public_key', peer.key.open],
      ['endpoint', `${peer.outside}:${PORT}`],
      ['allowed_ip', `${peer.inside}/32`],
    ])
    await run(null, 'ip', ['-n', end.netns.name, 'address', 'add', `${end.inside}/24`, 'dev', end.name])
    await run(null, 'ip', ['-n', end.netns.name, 'link', 'set', end.name, 'up'])
  }
  await until('the tunnel carries packets', async () => {
    // Nobody listens: the refusal has come from the far end.
    const { stderr } = await run(a.netns, 'timeout', ['1', 'bash', '-c', `exec 3<>/dev/tcp/${b.inside}/1`], { codes: 'any' })
    return stderr.includes('refused')
  })
}

/** The version of wireguard/go.mod, with go from the PATH or where its own archive puts it. go's cache makes the second time quick. */
async function build(lab: Lab): Promise<string> {
  const cwd = fileURLToPath(new URL('../wireguard', import.meta.url))
  const program = join(lab.dir, 'wireguard-go')
  const env = { PATH: [process.env['PATH'] ?? '', '/usr/local/go/bin'].join(delimiter) }
  await run(null, 'go', ['build', '-o', program, 'golang.zx2c4.com/wireguard'], { cwd, env, timeoutMs: 300_000 })
  return program
}

/** A Curve25519 pair, hexadecimal. */
function keyPair(): { own: string; open: string } {
  const { d, x } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' })
  if (d === undefined || x === undefined) throw new Error('a Curve25519 key has no d or no x')
  return { own: hex(d), open: hex(x) }
}

function hex(base64url: string): string {
  return Buffer.from(base64url, 'base64url').toString('hex')
}

/** WireGuard's cross-platform userspace protocol: `set=1`, then the device's keys, then its peer's. */
async function configure(path: string, settings: readonly (readonly [key: string, value: string])[]): Promise<void> {
  const socket = connect(path)
  await once(socket, 'connect')
  socket.write(`set=1\n${settings.map(([key, value]) => `${key}=${value}\n`).join('')}\n`)
  const [answer] = (await once(socket, 'data')) as [Buffer]
  socket.destroy()
  if (!answer.toString().startsWith('errno=0\n')) throw new Error(`wireguard-go refused its configuration: ${answer.toString().trim()}`)
}
