import type { Proc } from './proc.ts'

interface Answer {
  readonly ok: boolean
  readonly error?: string
}

/** A program that takes commands on its standard input and answers each with one line of JSON. */
export class Console {
  #proc: Proc
  #queue: Promise<unknown> = Promise.resolve()

  constructor(proc: Proc) {
    this.#proc = proc
  }

  /** One command at a time, so that each answer belongs to its question. */
  ask(command: string, timeoutMs = 5_000): Promise<Answer> {
    const asked = this.#queue.then(async () => {
      const from = this.#proc.mark
      this.#proc.write(`${command}\n`)
      const [line] = await this.#proc.waitFor(/^\{.*\}$/, { from, timeoutMs })
      const answer = JSON.parse(line) as Answer
      if (!answer.ok) throw new Error(`${this.#proc.label}: ${command}: ${answer.error ?? 'refused'}`)
      return answer
    })
    this.#queue = asked.catch(() => undefined)
    return asked
  }

  /** Ends the program's input and waits for its end. */
  async close(): Promise<void> {
    this.#proc.endInput()
    await this.#proc.exited
  }
}
