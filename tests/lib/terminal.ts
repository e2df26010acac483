import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const fixture = fileURLToPath(new URL('../fixtures/terminal.py', import.meta.url))

// eslint-disable-next-line no-control-regex -- how a terminal is told what to do is a control character and more (ECMA-48 §5.4)
const SEQUENCES = /\u001b\[[0-9;?]*[a-zA-Z]/g

/** Text without what tells a terminal to move or to colour. */
export function plain(text: string): string {
  return text.replace(SEQUENCES, '')
}

export interface TerminalEnd {
  readonly code: number
  /** Whether the terminal echoes and waits for Enter again, as before. */
  readonly cooked: boolean
}

/** A command on a terminal, and a person at it. */
export class Terminal implements AsyncDisposable {
  /** All that the command has written. */
  output = ''
  readonly ended: Promise<TerminalEnd>
  #child
  #watchers = new Set<() => void>()

  constructor(command: readonly string[], o: { columns?: number; rows?: number; env?: Readonly<Record<string, string>> } = {}) {
    const { NO_COLOR: _none, ...env } = process.env
    this.#child = spawn('python3', [fixture, String(o.columns ?? 100), String(o.rows ?? 30), ...command], {
      env: { ...env, TERM: 'xterm-256color', ...o.env },
    })
    let said = ''
    this.#child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      this.output += chunk
      for (const watcher of this.#watchers) watcher()
    })
    this.#child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
    this.#child.stdin.on('error', () => undefined)
    this.ended = new Promise((resolve, reject) => {
      this.#child.once('close', () => {
        const [, code, mode] = /exit (-?\d+) (cooked|raw)/.exec(said) ?? []
        if (code === undefined) reject(new Error(`the terminal said: ${said}`))
        else resolve({ code: Number(code), cooked: mode === 'cooked' })
      })
    })
    this.ended.catch(() => undefined)
  }

  key(text: string): void {
    this.#child.stdin.write(`key ${text}\n`)
  }
  resize(columns: number, rows: number): void {
    this.#child.stdin.write(`size ${columns} ${rows}\n`)
  }
  signal(number: number): void {
    this.#child.stdin.write(`signal ${number}\n`)
  }

  /** Waits until what was written from `from` on matches. */
  async until(pattern: RegExp, from = 0, timeoutMs = 20_000): Promise<string> {
    const shown = (): string => this.output.slice(from)
    if (!pattern.test(shown())) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => {
          this.#watchers.delete(look)
          reject(new Error(`${timeoutMs} ms passed before the terminal showed ${String(pattern)}:\n${JSON.stringify(shown())}`))
        }, timeoutMs)
        const look = (): void => {
          if (!pattern.test(shown())) return
          clearTimeout(timer)
          this.#watchers.delete(look)
          resolve()
        }
        this.#watchers.add(look)
        void this.ended.then(
          (end) => reject(new Error(`it ended (${JSON.stringify(end)}) before the terminal showed ${String(pattern)}:\n${shown()}`)),
          reject,
        )
      })
    }
    return shown()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end()
    this.#child.kill('SIGKILL')
    await this.ended.catch(() => undefined)
  }
}
