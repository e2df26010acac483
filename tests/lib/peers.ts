import { fileURLToPath } from 'node:url'
import type { Netns } from './netns.ts'
import type { Proc } from './proc.ts'
import type { Json } from './ztna.ts'

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

/** Starts a script of fixtures/ and waits until it prints `listening`. */
export async function server(netns: Netns, script: string, mode: string, address: string, ...more: string[]): Promise<Proc> {
  const proc = netns.spawn(process.execPath, [fixture(script), mode, address, ...more], { label: `${script} ${mode}` })
  await proc.waitFor(/"listening"/)
  return proc
}
export const tcpServer = (netns: Netns, mode: string, address: string): Promise<Proc> => server(netns, 'tcp-server.mjs', mode, address)
export const udpEcho = (netns: Netns, address: string): Promise<Proc> => server(netns, 'udp.mjs', 'echo', address)

/** Runs a script of fixtures/ to its end and returns the last line it printed. */
export async function client(netns: Netns, script: string, args: readonly string[], timeoutMs = 60_000): Promise<Json> {
  const { stdout, stderr } = await netns.run(process.execPath, [fixture(script), ...args], { timeoutMs, codes: [0, 1] })
  const line = stdout.trim().split('\n').at(-1) ?? ''
  try {
    return JSON.parse(line) as Json
  } catch {
    throw new Error(`${script} ${args.join(' ')} printed no result:\n${stdout}\n${stderr}`)
  }
}
export const tcpClient = (netns: Netns, mode: string, address: string, n = 0, timeoutMs?: number): Promise<Json> =>
  client(netns, 'tcp-client.mjs', [mode, address, String(n)], timeoutMs)

export interface UdpOptions {
  readonly payloads?: readonly string[]
  readonly count?: number
  readonly gapMs?: number
  readonly idleMs?: number
  readonly timeoutMs?: number
  readonly tag?: string
}
export interface UdpResult {
  readonly sent: number
  readonly received: number
  readonly wrong: number
  readonly first: number
}
export const udpClient = async (netns: Netns, address: string, o: UdpOptions = {}): Promise<UdpResult> =>
  (await client(netns, 'udp.mjs', ['send', address, JSON.stringify(o)], 120_000)) as unknown as UdpResult

/** Starts a script of fixtures/ that is to be watched while it runs. */
export function background(netns: Netns, script: string, args: readonly string[]): Proc {
  return netns.spawn(process.execPath, [fixture(script), ...args], { label: `${script} ${args[0] ?? ''}` })
}

/** Asks for `url` with curl; `code` is 000 when no answer came, `exit` curl's own code. */
export async function curl(
  netns: Netns,
  url: string,
  ...args: string[]
): Promise<{ code: string; body: string; exit: number | null; stderr: string }> {
  const { stdout, stderr, code } = await netns.run('curl', ['-sS', '--max-time', '30', '-w', '\n%{http_code}', ...args, url], {
    codes: 'any',
  })
  const cut = stdout.lastIndexOf('\n')
  return { code: stdout.slice(cut + 1), body: stdout.slice(0, cut), exit: code, stderr }
}
