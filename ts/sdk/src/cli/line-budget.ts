/** How many lines of one kind a log takes: a peer within its rights must not fill the disk, nor hide another peer's lines. */

/** Lines a second about one peer. */
export const LINES_PER_PEER = 10
/** Lines a second in all. */
export const LINES_IN_ALL = 50
const WINDOW_MS = 1_000

/** Takes lines up to the limits of each second; what was left out is told once at the second's end. */
export class LineBudget {
  readonly #tell: (leftOut: number, peers: readonly string[]) => void
  #written = new Map<string | undefined, number>()
  #leftOut = new Map<string | undefined, number>()
  #count = 0
  #window: NodeJS.Timeout | undefined

  /** `tell` gets how many lines were left out, and about whom, the most frequent first, at most ten. */
  constructor(tell: (leftOut: number, peers: readonly string[]) => void) {
    this.#tell = tell
  }

  /** Writes by `line`, or counts it as left out. */
  take(peer: string | undefined, line: () => void): void {
    this.#window ??= setTimeout(() => this.flush(), WINDOW_MS).unref()
    const written = this.#written.get(peer) ?? 0
    if (written >= LINES_PER_PEER || this.#count >= LINES_IN_ALL) {
      this.#leftOut.set(peer, (this.#leftOut.get(peer) ?? 0) + 1)
      return
    }
    this.#written.set(peer, written + 1)
    this.#count += 1
    line()
  }

  /** Ends the present second. */
  flush(): void {
    clearTimeout(this.#window)
    this.#window = undefined
    const leftOut = [...this.#leftOut].toSorted(([, a], [, b]) => b - a)
    this.#written = new Map()
    this.#leftOut = new Map()
    this.#count = 0
    const sum = leftOut.reduce((total, [, lines]) => total + lines, 0)
    const peers = leftOut.flatMap(([peer]) => peer ?? [])
    if (sum > 0) this.#tell(sum, peers.slice(0, 10))
  }
}
