/** A sign of life for what takes longer than a second: on a terminal alone, and gone when it is done. */

/** Time without a sign, milliseconds. */
const PATIENCE_MS = 1_000
/** Between two turns, milliseconds. */
const TURN_MS = 120
const TURNS = ['|', '/', '-', '\\'] as const
const CLEAR = '\r\u001b[K'

/** Standard error, as far as it matters here. */
export interface ProgressOutput {
  readonly isTTY?: boolean
  write(text: string): unknown
}

/** What `work` gives, which keeps this process from turning anything: on a terminal `text` stands there meanwhile. */
export function withNotice<T>(text: string, work: () => T, output: ProgressOutput = process.stderr): T {
  if (output.isTTY !== true || process.env['TERM'] === 'dumb') return work()
  output.write(text)
  try {
    return work()
  } finally {
    output.write(CLEAR)
  }
}

/** What `work` gives, with `text` shown meanwhile. */
export async function withProgress<T>(text: string, work: Promise<T>, output: ProgressOutput = process.stderr): Promise<T> {
  if (output.isTTY !== true || process.env['TERM'] === 'dumb') return work
  let turns = 0
  const timer = setInterval(() => {
    turns += 1
    if (turns * TURN_MS >= PATIENCE_MS) output.write(`${CLEAR}${TURNS[turns % TURNS.length] ?? ''} ${text}`)
  }, TURN_MS)
  try {
    return await work
  } finally {
    clearInterval(timer)
    if (turns * TURN_MS >= PATIENCE_MS) output.write(CLEAR)
  }
}
