/** One attempt to come online, shared by every caller of `start()` that overlaps with it. */
import { type ZtnaError, aborted, fromNative } from './errors.js'

/** What an attempt does. */
export interface AttemptSteps {
  /** Brings the role up as far as it goes by itself; `succeed()` may come later. */
  run(): Promise<void>
  /** Takes back what `run` did. Rejects nothing. */
  undo(): Promise<void>
  /** The error of a caller whose time ran out. */
  onTimeout(timeoutMs: number): ZtnaError
}

interface Waiter {
  resolve(): void
  reject(error: ZtnaError): void
}

/** Ends once: by `succeed`, by `fail`, or when its last waiter has given up. */
export class StartAttempt {
  readonly #steps: AttemptSteps
  readonly #waiters = new Set<Waiter>()
  #over = false
  #ended: Promise<void> = Promise.resolve()

  constructor(steps: AttemptSteps) {
    this.#steps = steps
  }

  get over(): boolean {
    return this.#over
  }

  /** Resolves when what a failed attempt did is undone. */
  get ended(): Promise<void> {
    return this.#ended
  }

  begin(): void {
    // Asynchronously, so that the role holds this attempt before anything can fail it.
    Promise.resolve()
      .then(() => this.#steps.run())
      .catch((error: unknown) => this.fail(fromNative(error)))
  }

  /** Resolves on success. Rejects on failure, on timeout (milliseconds, `Infinity` for none) or when `signal` fires. */
  wait(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      const leave = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        this.#waiters.delete(waiter)
      }
      const waiter: Waiter = {
        resolve: () => {
          leave()
          resolve()
        },
        reject: (error) => {
          leave()
          reject(error)
        },
      }
      const giveUp = (error: ZtnaError): void => {
        leave()
        if (this.#waiters.size === 0) this.#finish()
        // The role is `new` again by the time the last caller hears of it.
        this.#ended.then(() => reject(error), reject)
      }
      const onAbort = (): void => giveUp(aborted(signal))
      this.#waiters.add(waiter)
      signal?.addEventListener('abort', onAbort, { once: true })
      if (timeoutMs <= 0x7fff_ffff) timer = setTimeout(() => giveUp(this.#steps.onTimeout(timeoutMs)), timeoutMs)
    })
  }

  succeed(): void {
    if (this.#over) return
    this.#over = true
    for (const waiter of this.#waiters) waiter.resolve()
  }

  fail(error: ZtnaError): void {
    if (this.#over) return
    this.#finish()
    this.#ended.then(
      () => [...this.#waiters].forEach((waiter) => waiter.reject(error)),
      () => {},
    )
  }

  #finish(): void {
    if (this.#over) return
    this.#over = true
    this.#ended = this.#steps.undo()
  }
}
