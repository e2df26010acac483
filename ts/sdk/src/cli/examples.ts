/** Examples in `--help`. */
import type { Command } from 'commander'

/** Adds examples below the help of `command`. */
export function withExamples(command: Command, examples: readonly string[]): Command {
  return command.addHelpText('after', `\nExamples:\n${examples.map((line) => `  $ ${line}`).join('\n')}`)
}
