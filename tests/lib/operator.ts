/** Three roles on loopback as an operator starts them: from ztna.toml files, with metrics, below a service manager. */
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Loopback } from './loopback.ts'
import { Proc, run } from './proc.ts'
import { type Json, type RoleName, ztnaCommand } from './ztna.ts'

const NAMES = { relay: 'r1', connector: 'c1', agent: 'alice' } as const
// Debian's: another one in PATH would not have its packages.
const PYTHON = '/usr/bin/python3'
const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

export interface Started {
  readonly proc: Proc
  /** The `online` event. */
  readonly online: Json
}

export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Types, help texts and units by the name of the family. */
export interface Exposition {
  readonly families: Readonly<Record<string, string>>
  readonly helps: Readonly<Record<string, string>>
  readonly units: Readonly<Record<string, string>>
  readonly samples: readonly Sample[]
}

export class Operator implements AsyncDisposable {
  readonly #procs: Proc[] = []

  private constructor(
    readonly lab: Loopback,
    /** What stands before the command. */
    readonly prefix: readonly string[],
  ) {}

  /**
   * Service `echo` has the ports 7 and 8; by default group eng may use both. With `asOwner` the roles own their files and have not the
   * superuser's privilege to read them whatever their mode.
   */
  static async create(o: { policy?: string; asOwner?: boolean } = {}): Promise<Operator> {
    const { asOwner = false, ...lab } = o
    const prefix = asOwner ? ['setpriv', '--bounding-set=-dac_override,-dac_read_search'] : []
    return new Operator(await Loopback.create({ services: [{ name: 'echo', tcp: ['7-8'] }], ...lab }), prefix)
  }

  /** Writes `<role>.toml` with what every test needs and `more`, and returns its path. */
  configure(role: RoleName, more = ''): string {
    const { dir, trust, relayAddress } = this.lab
    const own = { relay: `listen = ["${relayAddress}"]\nloops = 1\n`, connector: '', agent: '' }
    const path = join(dir, `${role}.toml`)
    writeFileSync(
      path,
      `role = "${role}"
network = "${trust.out(role, NAMES[role])}"
control = "${join(dir, `${role}.sock`)}"
metrics = "127.0.0.1:0"
json = true
${own[role]}${more}`,
    )
    return path
  }

  /** `ztna run --config FILE`, not awaited. */
  run(config: string, env: Readonly<Record<string, string>> = {}): Proc {
    const [file = '', ...first] = [...this.prefix, ...ztnaCommand()]
    const proc = new Proc(null, file, [...first, 'run', '--config', config], { label: `ztna run ${config.split('/').at(-1)}`, env })
    this.#procs.push(proc)
    return proc
  }

  async start(config: string, env?: Readonly<Record<string, string>>): Promise<Started> {
    const proc = this.run(config, env)
    const [line] = await proc.waitFor(/^\{"event":"online".*$/)
    return { proc, online: JSON.parse(line) as Json }
  }

  /** Relay, connector and agent, whose forwards `forward` and `other` lead to ports 7 and 8, both `target` (host:port). */
  async startAll(target: string): Promise<{ relay: Started; connector: Started; agent: Started; forward: string; other: string }> {
    const relay = await this.start(this.configure('relay'))
    const connector = await this.start(this.configure('connector', `service = ["echo=tcp:7:${target}", "echo=tcp:8:${target}"]\n`))
    const agent = await this.start(this.configure('agent', 'forward = ["tcp:127.0.0.1:0=echo:7", "tcp:127.0.0.1:0=echo:8"]\n'))
    const [forward, other] = agent.online['listen'] as string[]
    if (forward === undefined || other === undefined) throw new Error(`no forward in ${JSON.stringify(agent.online)}`)
    return { relay, connector, agent, forward, other }
  }

  /** A program that ends with the test. */
  keep(proc: Proc): Proc {
    this.#procs.push(proc)
    return proc
  }

  async script(name: string, ...args: string[]): Promise<Proc> {
    const [file, ...first] = name.endsWith('.py') ? [PYTHON, '-u'] : [process.execPath]
    const proc = this.keep(new Proc(null, file ?? '', [...first, fixture(name), ...args], { label: name }))
    await proc.waitFor(/listening|stopped/)
    return proc
  }

  /** Where systemd would listen, and what it was told so far. */
  async serviceManager(): Promise<{ env: Record<string, string>; told: () => Json[]; waitFor: (pattern: RegExp) => Promise<Json> }> {
    const path = join(this.lab.dir, `notify-${this.#procs.length}.sock`)
    const proc = await this.script('notify.py', path)
    const told = (): Json[] => proc.lines.slice(1).map((line) => JSON.parse(line) as Json)
    const waitFor = async (pattern: RegExp): Promise<Json> => JSON.parse((await proc.waitFor(pattern)).input) as Json
    return { env: { NOTIFY_SOCKET: path }, told, waitFor }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#procs.map((proc) => proc.stop('SIGKILL')))
    this.lab[Symbol.dispose]()
  }
}

/** A page of the metrics server, by the `online` event. */
export async function scrape(started: Started, path: string): Promise<{ status: number; type: string; text: string }> {
  const response = await fetch(`http://${String(started.online['metrics'])}${path}`)
  return { status: response.status, type: response.headers.get('content-type') ?? '', text: await response.text() }
}

/** What the reference parser reads in an exposition; rejects when it refuses it. */
export async function parseMetrics(text: string): Promise<Exposition> {
  const { stdout } = await run(null, PYTHON, [fixture('openmetrics.py')], { input: text })
  return JSON.parse(stdout) as Exposition
}

/** Makes a role's folder unusable in the way that is noticed first: a key that others can read. */
export function spoil(folder: string): () => void {
  const key = join(folder, 'key.pem')
  chmodSync(key, 0o644)
  return () => chmodSync(key, 0o600)
}
