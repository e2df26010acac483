/** What the completion scripts of all shells are made of. */
import type { CompletedCommand } from './command-tree.js'

/** A program of sed that prints the names of services in a network.toml. */
export const SERVICE_NAMES = String.raw`/^\[\[service\]\]/,/^name/s/^name *= *"\([a-z0-9-]*\)".*/\1/p`

/** The options that take a value, each once: the word behind one of them is no command. */
export function taking(tree: readonly CompletedCommand[]): readonly string[] {
  return [...new Set(tree.flatMap(({ options }) => options.flatMap(({ flag, value }) => (value === undefined ? [] : [flag]))))]
}

/** Each command that is below another: the word that leads `from` the path above `to` its own. */
export function steps(tree: readonly CompletedCommand[]): readonly { readonly from: string; readonly word: string; readonly to: string }[] {
  return tree.flatMap(({ path, commands }) => commands.map(({ name }) => ({ from: path, word: name, to: `${path} ${name}`.trim() })))
}

/** The same as cases of bash and zsh, over `$at/$word`. */
export function stepCases(tree: readonly CompletedCommand[]): string {
  return steps(tree)
    .map(({ from, word, to }) => `          '${from}/${word}') at='${to}' operand=0 ;;`)
    .join('\n')
}
