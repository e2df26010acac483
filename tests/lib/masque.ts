import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mkdirSync } from 'node:fs'
import type { KeyPair } from './forge.ts'
import { run } from './proc.ts'
import type { Topology } from './topology.ts'

export interface MasqueResult {
  readonly stage: 'outer' | 'inner' | 'flow'
  readonly status?: number
  readonly proxyStatus?: string
  readonly body?: string
  readonly error?: string
}
export interface MasqueRequest {
  /** Client certificate of the outer connection; null for none. */
  readonly outer: KeyPair | null
  /** The same for the inner one; default `outer`. */
  readonly inner?: KeyPair
  readonly connector?: string
  /** service.zone:port; without it only the relay is asked. */
  readonly target?: string
  readonly udp?: string
  readonly path?: string
  readonly headers?: readonly string[]
  readonly alpn?: string
  readonly get?: string
  /** Hex, sent as they are on the outer request's stream, or as its HTTP Datagram. */
  readonly capsule?: string
  readonly datagram?: string
  readonly from?: string
}

/** Whether the client of masque/ can be built: it is the one part of these tests that needs go. */
export const hasGo = ((): boolean => {
  try {
    execFileSync('go', ['version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
})()

/** Builds the client (go's own cache makes the second time quick) and returns its path. */
export async function buildMasque(): Promise<string> {
  const dir = join(tmpdir(), `zt-${process.pid}-masque`)
  mkdirSync(dir, { recursive: true })
  const cwd = fileURLToPath(new URL('../masque', import.meta.url))
  await run(null, 'go', ['build', '-o', join(dir, 'masque'), '.'], { cwd, timeoutMs: 300_000 })
  return join(dir, 'masque')
}

/** Runs the client in the namespace of agent `from` (default the first). */
export async function masque(t: Topology, program: string, request: MasqueRequest): Promise<MasqueResult> {
  const domain = t.trust.domain
  const from = request.from ?? t.agentNames[0] ?? 'alice'
  const args = [
    '-relay',
    `${t.relayAddress('r1')}:4433`,
    '-relay-name',
    `r1.relay.${domain}`,
    '-ca',
    join(t.trust.out('agent', from), 'ca.pem'),
    '-connector',
    `${request.connector ?? 'c1'}.connector.${domain}`,
  ]
  if (request.outer) args.push('-cert', request.outer.cert, '-key', request.outer.key)
  if (request.inner) args.push('-inner-cert', request.inner.cert, '-inner-key', request.inner.key)
  for (const name of ['target', 'udp', 'path', 'alpn', 'get', 'capsule', 'datagram'] as const) {
    const value = request[name]
    if (value !== undefined) args.push(`-${name}`, value)
  }
  for (const header of request.headers ?? []) args.push('-header', header)
  const { stdout, stderr } = await t.place(from).run(program, args, { codes: [0, 1], timeoutMs: 20_000 })
  if (stdout === '') throw new Error(`the MASQUE client printed nothing: ${stderr}`)
  return JSON.parse(stdout) as MasqueResult
}

/** The pair in a node folder. */
export const pairOf = (folder: string): KeyPair => ({ cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') })
