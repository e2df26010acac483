/** What a person at a terminal sees of an agent or connector that looks for its relays: that it does, why it has none yet, and what it found. */
import type { AgentStatus, ConnectorStatus } from '../node-status.js'
import { ZtnaRelay } from '../relay.js'
import type { AnyRole } from './answer.js'
import type { Stream } from './output.js'
import { type ProgressOutput, Spinner, isMoving } from './progress.js'
import { type Paint, toneOfPath } from './style.js'

/** Standard error while a role starts. Whatever else is written goes above the line. */
export class StartLine implements Stream {
  readonly #output: ProgressOutput
  readonly #paint: Paint
  #spinner: Spinner | undefined
  #said: string | undefined

  constructor(output: ProgressOutput, paint: Paint) {
    this.#output = output
    this.#paint = paint
  }

  get isTTY(): boolean {
    return this.#output.isTTY === true
  }

  write(text: string): void {
    if (this.#spinner === undefined) this.#output.write(text)
    else this.#spinner.write(text)
  }

  /** Follows `role` until `found()` or `end()`. On a terminal alone; a relay looks for nobody. */
  follow(role: AnyRole): void {
    if (role instanceof ZtnaRelay || !isMoving(this.#output)) return
    const events = role as NodeJS.EventEmitter
    events.once('identity', () => {
      const names = statusOf(role)?.relays.map(({ name }) => name) ?? []
      const what = names.length === 1 ? `relay ${names[0]}` : `a relay: ${names.join(', ')}`
      this.#spinner = new Spinner((seconds) => `looking for ${what}, ${seconds} s`, this.#output)
    })
    events.on('warning', () => this.#tellWhy(role))
  }

  /** It is online. */
  found(role: AnyRole): void {
    if (this.#spinner === undefined) return
    this.end()
    const status = statusOf(role)
    for (const { name, state, rttMs } of status?.relays ?? []) {
      if (state === 'online') this.write(`${this.#paint('good', `relay ${name}`)}: ${rttMs.toFixed(1)} ms\n`)
    }
    for (const { name, path } of status !== undefined && 'connectors' in status ? status.connectors : []) {
      this.write(`connector ${name}: ${this.#paint(toneOfPath(path.kind), path.kind)}, ${path.rttMs.toFixed(1)} ms\n`)
    }
  }

  /** Nothing is looked for any more. Idempotent. */
  end(): void {
    this.#spinner?.stop()
    this.#spinner = undefined
  }

  #tellWhy(role: AnyRole): void {
    const why = statusOf(role)?.outage?.message
    if (this.#spinner === undefined || why === undefined || why === this.#said) return
    this.#said = why
    this.write(`${this.#paint('bad', 'not online')}: ${why}; it goes on trying\n`)
  }
}

// None of a relay, and none while the role does not run.
function statusOf(role: AnyRole): AgentStatus | ConnectorStatus | undefined {
  if (role instanceof ZtnaRelay) return undefined
  try {
    return role.status()
  } catch {
    return undefined
  }
}
