import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { appendFileSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'

/** Where a command runs: the name of a namespace, or null for the one of this process. */
export type Place = { readonly name: string } | null

export interface ProcOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Text for standard input; without it the input stays open until the process is stopped. */
  readonly input?: string
  /** Name in messages; default the command's. */
  readonly label?: string
}
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}
export interface RunResult extends Exit {
  readonly stdout: string
  readonly stderr: string
}

/** Lines kept per process for messages; all of them go to the log file. */
const KEPT_LINES = 20_000
const live = new Set<Proc>()
const finished: Proc[] = []

/** A running program, with its output as lines. */
export class Proc implements AsyncDisposable {
  readonly label: string
  readonly exited: Promise<Exit>
  /** Lines of both streams in order of arrival, the latest `KEPT_LINES`. */
  readonly lines: string[] = []
  #child: ChildProcessByStdio<Writable, Readable, Readable>
  #exit: Exit | undefined
  #watchers = new Set<(line: string | null) => void>()
  /** How many lines have been dropped from the front of `lines`. */
  #dropped = 0

  constructor(place: Place, command: string, args: readonly string[], options: ProcOptions = {}) {
    this.label = options.label ?? command.split('/').at(-1) ?? command
    const [file, argv] = inside(place, command, args)
    this.#child = spawn(file, argv, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    // A program may end before it has read its input.
    this.#child.stdin.on('error', () => undefined)
    if (options.input !== undefined) this.#child.stdin.end(options.input)
    const closed = Promise.all([this.#collect(this.#child.stdout), this.#collect(this.#child.stderr)])
    this.exited = new Promise((resolve) => {
      const end = (exit: Exit): void => {
        void closed.then(() => {
          if (this.#exit !== undefined) return
          this.#exit = exit
          live.delete(this)
          finished.push(this)
          if (finished.length > 50) finished.shift()
          for (const watcher of this.#watchers) watcher(null)
          resolve(exit)
        })
      }
      this.#child.on('error', (error) => {
        this.#add(`cannot start ${command}: ${error.message}`)
        end({ code: 127, signal: null })
      })
      this.#child.on('exit', (code, signal) => {
        // A grandchild may hold the pipes; the exit of the program itself is what counts.
        setTimeout(() => {
          this.#child.stdout.destroy()
          this.#child.stderr.destroy()
        }, 200).unref()
        end({ code, signal })
      })
    })
    live.add(this)
  }

  get pid(): number {
    const pid = this.#child.pid
    if (pid === undefined) throw new Error(`${this.label} was not started:\n${this.tail()}`)
    return pid
  }
  get exit(): Exit | undefined {
    return this.#exit
  }
  /** All that was printed, as far as it is kept. */
  get output(): string {
    return this.lines.join('\n')
  }
  /** A mark for `waitFor`: lines printed before it don't count. */
  get mark(): number {
    return this.#dropped + this.lines.length
  }

  /** The first line since `from` (default: the start) that matches; rejects when the process ends or time is over. */
  waitFor(pattern: RegExp, o: { timeoutMs?: number; from?: number } = {}): Promise<RegExpExecArray> {
    const { timeoutMs = 20_000, from = 0 } = o
    for (const line of this.lines.slice(Math.max(0, from - this.#dropped))) {
      const match = pattern.exec(line)
      if (match) return Promise.resolve(match)
    }
    return new Promise((resolve, reject) => {
      const fail = (why: string): void => {
        done()
        reject(new Error(`${this.label}: ${why} before a line matched ${String(pattern)}\n${this.tail()}`))
      }
      const watcher = (line: string | null): void => {
        if (line === null) return fail(`ended (${JSON.stringify(this.#exit)})`)
        const match = pattern.exec(line)
        if (!match) return
        done()
        resolve(match)
      }
      const timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs)
      const done = (): void => {
        clearTimeout(timer)
        this.#watchers.delete(watcher)
      }
      this.#watchers.add(watcher)
      if (this.#exit !== undefined) watcher(null)
    })
  }

  write(text: string): void {
    this.#child.stdin.write(text)
  }
  endInput(): void {
    this.#child.stdin.end()
  }
  signal(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) this.#child.kill(signal)
  }
  /** Ends it: `signal`, and SIGKILL when it has not ended after `graceMs`. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', graceMs = 15_000): Promise<Exit> {
    if (this.#exit !== undefined) return this.#exit
    this.#child.kill(signal)
    const timer = setTimeout(() => {
      this.#add(`(no end ${graceMs} ms after ${signal}: SIGKILL)`)
      this.#child.kill('SIGKILL')
    }, graceMs)
    const exit = await this.exited
    clearTimeout(timer)
    return exit
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGTERM', 3_000)
  }

  /** Resident memory in bytes. */
  rssBytes(): number {
    return 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${this.pid}/status`, 'utf8'))?.[1] ?? Number.NaN)
  }
  /** CPU time used so far, in seconds (user and system; 100 ticks a second on Linux). */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  }
  tail(lines = 60): string {
    return this.lines
      .slice(-lines)
      .map((line) => `    ${this.label}| ${line}`)
      .join('\n')
  }

  #collect(stream: Readable): Promise<void> {
    let rest = ''
    stream.setEncoding('utf8')
    stream.on('data', (text: string) => {
      const parts = (rest + text).split('\n')
      rest = parts.pop() ?? ''
      for (const part of parts) this.#add(part)
    })
    stream.on('error', () => undefined)
    return new Promise((resolve) => {
      stream.on('close', () => {
        if (rest !== '') this.#add(rest)
        resolve()
      })
    })
  }
  #add(line: string): void {
    this.lines.push(line)
    if (this.lines.length > KEPT_LINES) {
      this.lines.shift()
      this.#dropped += 1
    }
    const file = logFile()
    if (file !== undefined) appendFileSync(file, `${new Date().toISOString()} ${this.label}| ${line}\n`)
    for (const watcher of this.#watchers) watcher(line)
  }
}

/** Runs a program to its end. Rejects when it takes longer than `timeoutMs` (default 60 s) or exits with a code not in `codes` (default only 0). */
export async function run(
  place: Place,
  command: string,
  args: readonly string[],
  options: ProcOptions & { timeoutMs?: number; codes?: readonly number[] | 'any' } = {},
): Promise<RunResult> {
  const { timeoutMs = 60_000, codes = [0] } = options
  const [file, argv] = inside(place, command, args)
  const label = options.label ?? [command, ...args].join(' ').slice(0, 300)
  return new Promise((resolve, reject) => {
    const child = spawn(file, argv, { cwd: options.cwd, env: { ...process.env, ...options.env }, stdio: ['pipe', 'pipe', 'pipe'] })
    const out: Buffer[] = []
    const err: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk))
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
      child.stdout.destroy()
      child.stderr.destroy()
    }, timeoutMs)
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(new Error(`cannot start ${command}: ${error.message}`))
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const result = { code, signal, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }
      if (!late && (codes === 'any' || (code !== null && codes.includes(code)))) return resolve(result)
      const why = late ? `took longer than ${timeoutMs} ms` : `ended with ${signal ?? `code ${code}`}`
      reject(new Error(`${label} ${why}\n${result.stdout.slice(-4_000)}\n${result.stderr.slice(-4_000)}`))
    })
  })
}

/** The last lines of every process that runs or ended recently, for the report of a failed test. */
export function tails(): string {
  return [...finished, ...live]
    .map((proc) => `--- ${proc.label} (${proc.exit ? JSON.stringify(proc.exit) : 'running'})\n${proc.tail()}`)
    .join('\n')
}
export function forgetFinished(): void {
  finished.length = 0
}

function inside(place: Place, command: string, args: readonly string[]): [string, string[]] {
  // `ip netns exec` replaces itself by the command, so the child's process id is the command's own.
  return place === null ? [command, [...args]] : ['ip', ['netns', 'exec', place.name, command, ...args]]
}

/** With TEST_LOGS=DIR every line of every process goes to a file there. */
function logFile(): string | undefined {
  const dir = process.env['TEST_LOGS']
  if (dir === undefined || dir === '') return undefined
  mkdirSync(dir, { recursive: true })
  return join(dir, `${process.pid}.log`)
}
