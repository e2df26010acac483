/** The commands and their options, as shells complete them: read from the same tree that parses the command line. */
import type { Command, Option } from 'commander'
import { ROLES } from '../types.js'

/** What a value is, which says where its completions come from. */
export type ValueKind = 'text' | 'file' | 'folder' | 'service' | 'choice'

export interface Completed {
  readonly kind: ValueKind
  /** Of a choice. */
  readonly choices: readonly string[]
}

export interface CompletedOption {
  /** `--network`. */
  readonly flag: string
  readonly summary: string
  /** Undefined: it takes no value. */
  readonly value?: Completed
}

/** One command, or the program itself. */
export interface CompletedCommand {
  /** Words that lead to it, such as `pki issue`; empty for the program. */
  readonly path: string
  readonly commands: readonly { readonly name: string; readonly summary: string }[]
  readonly options: readonly CompletedOption[]
  /** In their order; the last may be repeated. */
  readonly operands: readonly Completed[]
}

/** All of `program`, the program itself first. */
export function commandTree(program: Command): readonly CompletedCommand[] {
  return walk(program, '')
}

function walk(command: Command, path: string): CompletedCommand[] {
  const help = command.createHelp()
  // What help hides is not offered either.
  const commands = help.visibleCommands(command)
  const options = help.visibleOptions(command).flatMap((option) => (typeof option.long === 'string' ? [toOption(option, option.long)] : []))
  const operands = command.registeredArguments.map((operand) => toValue(operand.name(), operand.argChoices))
  const own = { path, commands: commands.map((each) => ({ name: each.name(), summary: firstLine(each.description()) })), options, operands }
  const below = commands.filter((each) => each.name() !== 'help').flatMap((each) => walk(each, `${path} ${each.name()}`.trim()))
  return [own, ...below]
}

function toOption(option: Option, flag: string): CompletedOption {
  const placeholder = /<([^>]+)>/.exec(option.flags)?.[1]
  const summary = firstLine(option.description)
  return placeholder === undefined ? { flag, summary } : { flag, summary, value: toValue(placeholder, option.argChoices) }
}

/** By the placeholder, which in help stands for the same kind of value everywhere. */
function toValue(placeholder: string, choices: readonly string[] | undefined): Completed {
  if (choices !== undefined) return { kind: 'choice', choices }
  const name = placeholder.replace(/\.\.\.$/, '').toUpperCase()
  if (name === 'ROLE') return { kind: 'choice', choices: ROLES }
  if (name === 'P') return { kind: 'choice', choices: ['tcp', 'udp'] }
  if (name === 'DIR' || name === 'OUT') return { kind: 'folder', choices: [] }
  if (name === 'FILE' || name === 'PATH') return { kind: 'file', choices: [] }
  return { kind: name === 'SERVICE' ? 'service' : 'text', choices: [] }
}

const firstLine = (text: string): string => text.replace(/\s+/g, ' ').trim()
