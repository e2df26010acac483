// One running `ztna` role: its process, its JSON events, and its end.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { eachLine, Failure, lastLines, must, root } from './process.mjs'

const cli = join(root, 'ts', 'sdk', 'dist', 'cli.js')

/** Our environment without ZTNA_* variables: they would change what the roles do. */
function cleanEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('ZTNA_')))
}

// Short commands: they end by themselves, and whoever calls has its own way to stop.
const command = { stdoutOnly: true, timeoutMs: 30_000, endsWithUs: false }

/** Runs a `ztna` command to its end; returns its stdout. */
export async function ztna(...args) {
  const { output } = await must(process.execPath, [cli, ...args], { env: cleanEnvironment(), ...command })
  return output
}

export class Role {
  #child
  #log = []
  #events = []
  #waiting = new Set()
  #ended

  /** Starts `ztna <kind> --json …`. Its own process group, so that Ctrl-C reaches it through `stop` and not past it. */
  constructor(kind, args) {
    this.kind = kind
    this.#child = spawn(process.execPath, [cli, kind, '--json', '--log-format', 'json', ...args], {
      env: cleanEnvironment(),
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    eachLine(this.#child.stdout, (line) => this.#event(line))
    eachLine(this.#child.stderr, (line) => {
      this.#log.push(line)
      // Enough to tell why it ended; the rest would only grow.
      if (this.#log.length > 200) this.#log.shift()
    })
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => resolve(`could not start: ${error.message}`))
      this.#child.once('close', (code, signal) => resolve(signal === null ? `ended with exit code ${code}` : `ended by ${signal}`))
    })
    void this.#ended.then((how) => {
      for (const waiter of this.#waiting) waiter.fail(this.#failure(how))
    })
  }

  /** The promise of how the process ended. */
  get ended() {
    return this.#ended
  }

  /** The first event, past or future, that `wanted` accepts. */
  async event(what, wanted, timeoutMs = 20_000) {
    const known = this.#events.find(wanted)
    if (known !== undefined) return known
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer)
        this.#waiting.delete(waiter)
        settle(value)
      }
      const timer = setTimeout(() => done(reject, this.#failure(`no ${what} within ${timeoutMs / 1000} s`)), timeoutMs)
      const waiter = { wanted, pass: (event) => done(resolve, event), fail: (error) => done(reject, error) }
      this.#waiting.add(waiter)
      // It may have ended before anybody asked.
      if (this.#isOver()) waiter.fail(this.#failure('has ended'))
    })
  }

  online() {
    return this.event('online event', ({ event }) => event === 'online')
  }

  /** SIGTERM, which drains; SIGKILL when that takes longer than `graceMs`. */
  async stop(graceMs = 12_000) {
    const timer = setTimeout(() => this.kill('SIGKILL'), graceMs)
    this.kill('SIGTERM')
    await this.#ended
    clearTimeout(timer)
  }

  kill(signal) {
    if (!this.#isOver()) this.#child.kill(signal)
  }

  #isOver() {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  #event(line) {
    let event
    try {
      event = JSON.parse(line)
    } catch {
      this.#log.push(`on stdout, and not JSON: ${line}`)
      return
    }
    this.#events.push(event)
    if (this.#events.length > 1000) this.#events.shift()
    for (const waiter of this.#waiting) if (waiter.wanted(event)) waiter.pass(event)
  }

  #failure(what) {
    const log = this.#log.length === 0 ? '' : `\n${lastLines(this.#log.join('\n'), 20)}`
    return new Failure(`${this.kind}: ${what}${log}`)
  }
}
