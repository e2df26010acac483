/** What commands to running roles have in common. */
import { type Command, Option } from 'commander'
import { ROLES } from '../types.js'
import { type Request, ask, findControl } from './control.js'
import { UsageError } from './exit.js'
import { checkNodeName } from './grammar.js'
import { withProgress } from './progress.js'

/** Which role, and how its answer is printed. */
export interface Where {
  control?: string
  role?: string
  name?: string
  json?: boolean
}

export interface TimedWhere extends Where {
  timeout: string
}

/** A command that asks a running role. */
export function client(program: Command, usage: string, summary: string): Command {
  return program
    .command(usage)
    .description(summary)
    .option('--control <PATH>', 'control socket (default: that of the sole running role)')
    .addOption(new Option('--role <ROLE>', 'of the node').choices(ROLES))
    .option('--name <NAME>', 'name of the node')
    .option('--json', 'print JSON')
}

/** With `--timeout`. */
export function timed(command: Command): Command {
  return command.option('--timeout <SECONDS>', 'give up after', '10')
}

/** Only agents can answer: others that run here are no choice. */
export function ofAgent<T extends Where>(where: T): T {
  return where.control === undefined && where.role === undefined ? { ...where, role: 'agent' } : where
}

/** What the role that is meant answers. */
export async function request(where: Where, question: Request): Promise<unknown> {
  if (where.name !== undefined) checkNodeName(where.name)
  return withProgress(`waiting for the answer to ${question.cmd}`, ask(await findControl(where), question))
}

/** Milliseconds of `--timeout`. Errors: UsageError. */
export function parseTimeout(text: string): number {
  const seconds = Number(text)
  if (seconds > 0 && seconds <= 86_400) return seconds * 1_000
  throw new UsageError(`--timeout ${text}: accepted: seconds, more than 0 and up to 86400`)
}
