/** How many lines of one kind a log takes: a peer within its rights must not fill the disk, nor hide another peer's lines. */

/** How many lines of one kind a log takes. */
export interface LineLimits {
  /** Lines a second about one peer. */
  readonly perPeer: number
  /** Lines a second in all. */
  readonly inAll: number
  /** Lines about one peer at once, after a time of silence. Default `perPeer`. */
  readonly burst?: number
}

/** What was denied or failed: an operator needs a few of each, and their number. */
export const REFUSED: LineLimits = { perPeer: 10, inAll: 50 }
/** What was admitted is the audit's record: a peer that works as people and programs do stays below. */
export const ADMITTED: LineLimits = { perPeer: 100, inAll: 1_000, burst: 300 }
/** Warnings; a "peer" is one wording of them. */
export const WARNED: LineLimits = { perPeer: 10, inAll: 200 }
/** Warnings about somebody who has proven no identity, which costs them nothing. */
export const UNPROVEN: LineLimits = { perPeer: 1, inAll: 1 }

/** Peers told apart among those left out in one second. The rest are told as one. */
const PEERS = 1_000
/** Peers named in one line, the most frequent first. */
const NAMED = 10
const OTHERS = 'others'
const WINDOW_MS = 1_000

/** Lines left out, by whom they were about. */
export type LeftOut = Readonly<Record<string, number>>

/** Takes lines up to the limits of each second; what was left out is told once at the second's end. */
export class LineBudget {
  readonly #perPeer: number
  readonly #inAll: number
  readonly #burst: number
  readonly #tell: (leftOut: number, peers: LeftOut) => void
  // Lines that a peer has written beyond what the seconds since have given back to it.
  #written = new Map<string | undefined, number>()
  #leftOut = new Map<string | undefined, number>()
  #count = 0
  #window: NodeJS.Timeout | undefined

  /** `tell` gets how many lines were left out, and how many of them about whom: ten peers at most, and `others`. */
  constructor({ perPeer, inAll, burst = perPeer }: LineLimits, tell: (leftOut: number, peers: LeftOut) => void) {
    this.#perPeer = perPeer
    this.#inAll = inAll
    this.#burst = burst
    this.#tell = tell
  }

  /** Writes by `line`, or counts it as left out. */
  take(peer: string | undefined, line: () => void): void {
    this.#window ??= setTimeout(() => this.flush(), WINDOW_MS).unref()
    const written = this.#written.get(peer) ?? 0
    if (written >= this.#burst || this.#count >= this.#inAll) {
      const known = this.#leftOut.has(peer) || this.#leftOut.size < PEERS
      const whom = known ? peer : OTHERS
      this.#leftOut.set(whom, (this.#leftOut.get(whom) ?? 0) + 1)
      return
    }
    this.#written.set(peer, written + 1)
    this.#count += 1
    line()
  }

  /** Ends the present second. */
  flush(): void {
    clearTimeout(this.#window)
    const leftOut = [...this.#leftOut].toSorted(([, a], [, b]) => b - a)
    const still = [...this.#written].map(([peer, lines]) => [peer, lines - this.#perPeer] as const).filter(([, lines]) => lines > 0)
    this.#written = new Map(still)
    this.#leftOut = new Map()
    this.#count = 0
    this.#window = still.length > 0 ? setTimeout(() => this.flush(), WINDOW_MS).unref() : undefined
    const sum = leftOut.reduce((total, [, lines]) => total + lines, 0)
    if (sum === 0) return
    const named = leftOut
      .flatMap(([peer, lines]) => (peer === undefined || peer === OTHERS ? [] : [[peer, lines] as const]))
      .slice(0, NAMED)
    const rest = sum - named.reduce((total, [, lines]) => total + lines, 0)
    this.#tell(sum, Object.fromEntries([...named, ...(rest > 0 ? [[OTHERS, rest] as const] : [])]))
  }
}
