import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Lab, Netns } from './netns.ts'
import { run, type Exit, type Proc, type RunResult } from './proc.ts'

export type RoleName = 'relay' | 'connector' | 'agent'
export type Json = Readonly<Record<string, unknown>>

/** The command line of the built SDK. */
export function ztnaCommand(): readonly [string, ...string[]] {
  const cli = fileURLToPath(new URL('../../ts/sdk/dist/cli.js', import.meta.url))
  if (!existsSync(cli)) throw new Error(`${cli} is missing: run npm run build`)
  return [process.execPath, cli]
}

/** `ztna …` to its end, in no particular namespace. */
export async function ztna(args: readonly string[], o: Parameters<typeof run>[3] & { in?: Netns } = {}): Promise<RunResult> {
  const [file, ...first] = ztnaCommand()
  return run(o.in ?? null, file, [...first, ...args], { label: `ztna ${args.join(' ')}`, ...o })
}

export interface ServiceSpec {
  readonly name: string
  readonly connectors?: readonly string[]
  readonly tcp?: readonly (number | string)[]
  readonly udp?: readonly (number | string)[]
  readonly icmp?: boolean
}

/** Lets every agent of group eng do everything: for tests that are about something else. */
export const PERMIT_ENG = 'permit(principal in Group::"eng", action == Action::"connect", resource);\n'

/** A trust folder and the node folders published from it. */
export class Trust {
  readonly dir: string
  readonly outs = new Map<string, string>()

  private constructor(
    readonly base: string,
    readonly domain: string,
  ) {
    this.dir = join(base, 'trust')
  }

  static async init(base: string, domain = 'example.test'): Promise<Trust> {
    mkdirSync(base, { recursive: true })
    const trust = new Trust(base, domain)
    await ztna(['pki', 'init', trust.dir, '--trust-domain', domain])
    return trust
  }

  /** Issues a certificate and publishes to a folder, which it returns. */
  async issue(
    role: RoleName,
    name: string,
    o: { groups?: readonly string[]; urls?: readonly string[]; ttl?: string; out?: string } = {},
  ): Promise<string> {
    const out = o.out ?? join(this.base, `${role}-${name}`)
    const args = ['pki', 'issue', this.dir, role, name, '--out', out]
    for (const group of o.groups ?? []) args.push('--group', group)
    for (const url of o.urls ?? []) args.push('--url', url)
    if (o.ttl !== undefined) args.push('--ttl', o.ttl)
    await ztna(args)
    this.outs.set(`${role}-${name}`, out)
    return out
  }
  /** The relay r1 at `urls`, the connector c1 and the agent alice of group eng; their folders are published. */
  async issueThree(urls: readonly string[]): Promise<void> {
    await this.issue('relay', 'r1', { urls })
    await this.issue('connector', 'c1')
    await this.issue('agent', 'alice', { groups: ['eng'] })
    await this.publish()
  }
  out(role: RoleName, name: string): string {
    const out = this.outs.get(`${role}-${name}`)
    if (out === undefined) throw new Error(`no ${role} ${name} was issued`)
    return out
  }
  /** Adds a service as an operator does: by editing network.toml. */
  addService(service: ServiceSpec): void {
    const lines = [
      '',
      '[[service]]',
      `name = ${JSON.stringify(service.name)}`,
      `connectors = ${JSON.stringify(service.connectors ?? ['c1'])}`,
    ]
    if (service.tcp) lines.push(`tcp = ${JSON.stringify(service.tcp)}`)
    if (service.udp) lines.push(`udp = ${JSON.stringify(service.udp)}`)
    if (service.icmp === true) lines.push('icmp = true')
    appendFileSync(join(this.dir, 'network.toml'), `${lines.join('\n')}\n`)
  }
  /** Adds top-level lines to network.toml; they must stand before its first table. */
  prependNetwork(lines: string): void {
    const file = join(this.dir, 'network.toml')
    writeFileSync(file, `${lines}${readFileSync(file, 'utf8')}`)
  }
  setPolicy(cedar: string): void {
    writeFileSync(join(this.dir, 'policy.cedar'), cedar)
  }
  /** To all folders, or only to those given. */
  async publish(outs: readonly string[] = [...this.outs.values()]): Promise<void> {
    await ztna(['pki', 'publish', this.dir, ...outs])
  }
  async revoke(name: string): Promise<void> {
    await ztna(['pki', 'revoke', this.dir, name])
  }
}

/** A running role. */
export class RoleProc {
  constructor(
    readonly role: RoleName,
    readonly name: string,
    readonly netns: Netns,
    readonly proc: Proc,
    readonly control: string,
  ) {}
  /** The `online` event, since `from`. */
  online(o: { from?: number; timeoutMs?: number } = {}): Promise<Json> {
    return this.event('online', () => true, o)
  }
  /** The first event of that name for which `test` holds. */
  async event(name: string, test: (event: Json) => boolean = () => true, o: { from?: number; timeoutMs?: number } = {}): Promise<Json> {
    const end = Date.now() + (o.timeoutMs ?? 20_000)
    let from = o.from ?? 0
    for (;;) {
      const [line] = await this.proc.waitFor(new RegExp(`^\\{.*"event":\\s*"${name}".*$`), {
        from,
        timeoutMs: Math.max(1, end - Date.now()),
      })
      const event = JSON.parse(line) as Json
      if (test(event)) return event
      from = this.proc.lines.indexOf(line, from) + 1
    }
  }
  status(): Promise<Json> {
    return this.ask('status')
  }
  /** A command to the running role, by its control socket. */
  async ask(command: string, ...args: string[]): Promise<Json> {
    const { stdout } = await ztna([command, ...args, '--control', this.control, '--json'], { in: this.netns })
    return JSON.parse(stdout) as Json
  }
  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    return this.proc.stop(signal)
  }
}

/** Starts `ztna <role>` on a published folder. It is not awaited: call `online()`. */
export function startRole(lab: Lab, netns: Netns, role: RoleName, name: string, folder: string, args: readonly string[] = []): RoleProc {
  const [file, ...first] = ztnaCommand()
  const control = join(lab.dir, `${role}-${name}-${(starts += 1)}.sock`)
  const argv = [...first, role, '--network', folder, '--control', control, '--json', ...args]
  return new RoleProc(role, name, netns, lab.spawn(netns, file, argv, { label: `${role} ${name}` }), control)
}
let starts = 0
