/** What one part of a soak came to. */
export interface Outcome {
  /** False where this machine lacks what it takes; `problems` is then empty and `figures.why` says what. */
  readonly ran: boolean
  /** Sentences; none is a pass. */
  readonly problems: readonly string[]
  readonly figures: Readonly<Record<string, unknown>>
}

/** Tells the reader that something has got on. */
export type Progress = (line: string) => void
