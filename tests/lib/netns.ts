import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { kernelNet } from './kernel-net.ts'
import { Net, type NetSpec } from './net.ts'
import { Proc, run, type Place, type ProcOptions, type RunResult } from './proc.ts'
import { Wire, type WireSettings } from './wire.ts'

/** Namespaces are called zt-<owner's process id>-<number>-<role>, so that what a dead owner left can be told and removed. */
const PREFIX = 'zt'
let counter = 0
const labs = new Set<Lab>()

export class Netns {
  constructor(
    readonly lab: Lab,
    readonly name: string,
  ) {}
  spawn(command: string, args: readonly string[], options?: ProcOptions): Proc {
    return this.lab.spawn(this, command, args, options)
  }
  run(command: string, args: readonly string[], options?: Parameters<typeof run>[3]): Promise<RunResult> {
    return run(this, command, args, options)
  }
}

/** One end of a link: a free interface name and addresses with prefix length. */
export interface End {
  readonly netns: Netns
  readonly interface: string
  readonly addresses: readonly string[]
}

/** Namespaces, links, processes and a folder that vanish together. */
export class Lab implements AsyncDisposable {
  /** A fresh folder that other users may pass through but not list. */
  readonly dir: string
  #namespaces: Netns[] = []
  #processes: Proc[] = []
  #cleanups: (() => Promise<void>)[] = []
  #disposed = false

  constructor() {
    this.dir = mkdtempSync(join(tmpdir(), `${PREFIX}-${process.pid}-`))
    chmodSync(this.dir, 0o711)
    labs.add(this)
  }

  /** A new namespace with loopback up, forwarding off and nothing else. */
  async netns(role: string): Promise<Netns> {
    counter += 1
    const netns = new Netns(this, `${PREFIX}-${process.pid}-${counter}-${role}`)
    await run(null, 'ip', ['netns', 'add', netns.name])
    this.#namespaces.push(netns)
    await run(null, 'ip', ['-n', netns.name, 'link', 'set', 'lo', 'up'])
    await run(netns, 'sh', [
      '-c',
      'echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad',
    ])
    return netns
  }

  /** A veth pair between two namespaces: the kernel's own wire, without impairment. */
  async veth(a: End, b: End): Promise<void> {
    await run(null, 'ip', [
      '-n',
      a.netns.name,
      'link',
      'add',
      a.interface,
      'type',
      'veth',
      'peer',
      'name',
      b.interface,
      'netns',
      b.netns.name,
    ])
    for (const end of [a, b]) {
      for (const address of end.addresses) {
        await run(null, 'ip', [
          '-n',
          end.netns.name,
          'address',
          'add',
          address,
          'dev',
          end.interface,
          ...(address.includes(':') ? ['nodad'] : []),
        ])
      }
      await run(null, 'ip', ['-n', end.netns.name, 'link', 'set', end.interface, 'up'])
    }
  }

  /** The user-space wire between two namespaces, with delay, loss and the rest. */
  async wire(a: End, b: End, settings: WireSettings): Promise<Wire> {
    const wire = await Wire.start(this, a, b, settings)
    return wire
  }

  /** Routers between namespaces: NATs, firewalls and carriers, with the wire's impairments on every link. */
  async net(spec: NetSpec): Promise<Net> {
    return await Net.start(this, spec)
  }

  /** The same of namespaces and nft: the kernel's own NATs and firewalls, without impairments. */
  async kernelNet(spec: NetSpec): Promise<void> {
    await kernelNet(this, spec)
  }

  async route(netns: Netns, destination: string, via: string): Promise<void> {
    await run(null, 'ip', ['-n', netns.name, 'route', 'add', destination, 'via', via])
  }

  /** Starts a program that ends with the lab. */
  spawn(place: Place, command: string, args: readonly string[], options?: ProcOptions): Proc {
    const proc = new Proc(place, command, args, options)
    this.#processes.push(proc)
    return proc
  }

  /** Runs when the lab ends, before its processes are stopped, last added first. */
  defer(cleanup: () => Promise<void>): void {
    this.#cleanups.push(cleanup)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    const failures: unknown[] = []
    for (const cleanup of this.#cleanups.toReversed()) await cleanup().catch((error: unknown) => failures.push(error))
    await Promise.all(this.#processes.map((proc) => proc.stop('SIGTERM', 3_000)))
    this.removeNow()
    if (failures.length > 0) throw new AggregateError(failures, 'the laboratory could not be cleared away')
  }

  /** The synchronous half of the end, which also runs when this process exits in between. */
  removeNow(): void {
    labs.delete(this)
    for (const proc of this.#processes) proc.signal('SIGKILL')
    for (const { name } of this.#namespaces) removeNamespace(name)
    rmSync(this.dir, { recursive: true, force: true })
  }
}

process.on('exit', () => {
  for (const lab of labs) lab.removeNow()
})

/** Removes namespaces and folders whose owner no longer lives. */
export function removeStale(): void {
  const owner = new RegExp(`^${PREFIX}-(\\d+)-`)
  const dead = (name: string): boolean => {
    const pid = owner.exec(name)?.[1]
    return pid !== undefined && !existsSync(`/proc/${pid}`)
  }
  if (existsSync('/run/netns')) readdirSync('/run/netns').filter(dead).forEach(removeNamespace)
  for (const name of readdirSync(tmpdir()).filter(dead)) rmSync(join(tmpdir(), name), { recursive: true, force: true })
}

function removeNamespace(name: string): void {
  try {
    // Whatever still runs in it was started by its owner, or by what its owner started.
    const pids = execFileSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).split('\n').filter(Boolean).map(Number)
    for (const pid of pids) if (pid !== process.pid) kill(pid)
    execFileSync('ip', ['netns', 'delete', name])
  } catch {
    // Already gone, or busy for a moment: the next start removes it as stale.
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // Ended by itself.
  }
}

/** Rejects unless nothing in `from` can reach `address` (neither an open port nor a refusal comes back). */
export async function assertUnreachable(from: Netns, address: string, port: number): Promise<void> {
  const probe = await run(from, 'timeout', ['1', 'bash', '-c', `exec 3<>/dev/tcp/${address}/${port}`], { codes: 'any' })
  if (probe.code === 0) throw new Error(`${from.name} reached ${address}:${port}, which must have no route`)
  // 124: timeout(1) ended it, packets vanish.
  if (probe.code === 124 || /unreachable|No route to host/i.test(probe.stderr)) return
  throw new Error(`${from.name} got an answer from ${address}:${port}, which must have no route: ${probe.stderr}`)
}
