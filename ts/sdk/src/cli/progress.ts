/** A sign of life for what takes longer than a second: on a terminal alone, and gone when it is done. */
import { fit } from './style.js'

/** Time without a sign, milliseconds. */
const PATIENCE_MS = 1_000
/** Between two turns, milliseconds. */
const TURN_MS = 120
const TURNS = ['|', '/', '-', '\\'] as const
const CLEAR = '\r\u001b[K'
/** Where a terminal does not say how wide it is. */
const COLUMNS = 80

/** Standard error, as far as it matters here. */
export interface ProgressOutput {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

/** Whether a line that moves may be shown there. */
export function isMoving(output: ProgressOutput): boolean {
  return output.isTTY === true && process.env['TERM'] !== 'dumb'
}

/** A line that turns from a second after it was made until `stop()`. Only for a terminal. */
export class Spinner {
  readonly #output: ProgressOutput
  readonly #timer: NodeJS.Timeout
  #turns = 0
  #isShown = false

  /** `text`: what stands there after so many seconds; what does not fit into one line is left out. */
  constructor(text: (seconds: number) => string, output: ProgressOutput) {
    this.#output = output
    this.#timer = setInterval(() => {
      this.#turns += 1
      const ms = this.#turns * TURN_MS
      if (ms < PATIENCE_MS) return
      this.#isShown = true
      const line = fit(text(Math.floor(ms / 1_000)), (output.columns || COLUMNS) - 3)
      output.write(`${CLEAR}${TURNS[this.#turns % TURNS.length] ?? ''} ${line}`)
    }, TURN_MS)
  }

  /** What else goes to that terminal: whole lines, which stay above. */
  write(text: string): void {
    this.#output.write(`${this.#isShown ? CLEAR : ''}${text}`)
    this.#isShown = false
  }

  /** Wipes it away. Idempotent. */
  stop(): void {
    clearInterval(this.#timer)
    if (this.#isShown) this.#output.write(CLEAR)
    this.#isShown = false
  }
}

/** What `work` gives, which keeps this process from turning anything: on a terminal `text` stands there meanwhile. */
export function withNotice<T>(text: string, work: () => T, output: ProgressOutput = process.stderr): T {
  if (!isMoving(output)) return work()
  output.write(text)
  try {
    return work()
  } finally {
    output.write(CLEAR)
  }
}

/** What `work` gives, with `text` shown meanwhile. */
export async function withProgress<T>(text: string, work: Promise<T>, output: ProgressOutput = process.stderr): Promise<T> {
  if (!isMoving(output)) return work
  const spinner = new Spinner(() => text, output)
  try {
    return await work
  } finally {
    spinner.stop()
  }
}
