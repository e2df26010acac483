/** A whole terminal, taken for a while and given back as it was. */

/** What a screen needs of standard output. */
export interface ScreenOutput {
  readonly columns: number
  readonly rows: number
  write(text: string): boolean
  readonly writableNeedDrain: boolean
  on(event: 'resize', listener: () => void): unknown
  off(event: 'resize', listener: () => void): unknown
}

/** What it needs of standard input. */
export interface ScreenInput {
  readonly isTTY?: boolean
  setRawMode?(on: boolean): unknown
  on(event: 'data', listener: (chunk: Buffer) => void): unknown
  off(event: 'data', listener: (chunk: Buffer) => void): unknown
  resume(): unknown
  pause(): unknown
}

const ENTER = '\u001b[?1049h\u001b[?25l'
const LEAVE = '\u001b[?25h\u001b[?1049l'
const HOME = '\u001b[H'
const REST_OF_LINE = '\u001b[K'
const REST_OF_SCREEN = '\u001b[J'

/** The alternate screen, without a cursor, until `close()`: also at the end of the process, however that comes. */
export class Screen {
  readonly #output: ScreenOutput
  readonly #input: ScreenInput
  readonly #onKey: (chunk: Buffer) => void
  readonly #onResize: () => void
  readonly #onExit = (): void => this.close()
  #open = true

  /** `key` gets each key, `resized` is called when the terminal has another size. */
  constructor(output: ScreenOutput, input: ScreenInput, on: { key: (key: string) => void; resized: () => void }) {
    this.#output = output
    this.#input = input
    this.#onKey = (chunk) => {
      for (const key of chunk.toString('latin1')) on.key(key)
    }
    this.#onResize = on.resized
    output.write(ENTER)
    output.on('resize', this.#onResize)
    process.on('exit', this.#onExit)
    // Without raw mode a key would wait for Enter, and be echoed.
    if (input.isTTY === true) {
      input.setRawMode?.(true)
      input.on('data', this.#onKey)
      input.resume()
    }
  }

  /** Columns of the terminal; 80 where it does not say. */
  get width(): number {
    return this.#output.columns || 80
  }

  /** Lines of the terminal; 24 where it does not say. */
  get height(): number {
    return this.#output.rows || 24
  }

  /** Puts `lines` in place of what is there. A terminal that does not keep up misses some. */
  draw(lines: readonly string[]): void {
    if (!this.#open || this.#output.writableNeedDrain) return
    // No line feed behind the last line: it would move all of them up.
    this.#output.write(HOME + lines.map((line) => line + REST_OF_LINE).join('\r\n') + REST_OF_SCREEN)
  }

  /** Gives the terminal back. Idempotent. */
  close(): void {
    if (!this.#open) return
    this.#open = false
    process.off('exit', this.#onExit)
    this.#output.off('resize', this.#onResize)
    if (this.#input.isTTY === true) {
      this.#input.off('data', this.#onKey)
      this.#input.setRawMode?.(false)
      this.#input.pause()
    }
    this.#output.write(LEAVE)
  }
}
