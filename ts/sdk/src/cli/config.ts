/** Settings of one role: flag over `ZTNA_*` over file over default. */
import { readFileSync } from 'node:fs'
import { TomlError, parse } from 'smol-toml'
import { configError } from '../errors.js'
import { ROLES, type Role, isRole } from '../types.js'
import { UsageError, fileError } from './exit.js'
import { SETTINGS, type Setting, attributeOf, flagOf, variableOf } from './options.js'

export type Value = string | number | boolean | readonly string[]

/** What a role runs with. */
export interface Settings {
  readonly role: Role
  get(key: string): Value | undefined
  text(key: string): string | undefined
  list(key: string): readonly string[]
  number(key: string): number | undefined
  /** Where the value came from, for messages: `--forward`, `ZTNA_FORWARD`, `ztna.toml:3: forward`. */
  source(key: string): string
  /** One line for each value that hides another. */
  readonly overrides: readonly string[]
  /** What an operator should know of the file as it is now: keys that have changed since the start, or why it can't be read. */
  fileNews(): string | undefined
}

interface Found {
  readonly value: Value
  readonly source: string
}

// Read by the SDK and the command line outside the schema.
const OTHER_VARIABLES = ['ZTNA_CONFIG', 'ZTNA_ROLE']

/** Errors: ERR_ZTNA_CONFIG for a variable or file, UsageError for a flag. */
export function loadSettings(
  role: Role | undefined,
  flags: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
  path: string | undefined,
): Settings {
  checkVariables(environment)
  const file = path === undefined ? new Map<string, Found>() : readFile(path)
  const ofEnvironment = environment['ZTNA_ROLE'] || undefined
  const chosen = role ?? ofEnvironment ?? file.get('role')?.value
  if (chosen === undefined) {
    throw configError(`${path ?? 'ztna.toml'}: no role: give the key \`role\` or ZTNA_ROLE; one of ${ROLES.join(', ')}`)
  }
  if (!isRole(chosen)) {
    const at = ofEnvironment === undefined ? (file.get('role')?.source ?? path ?? 'role') : 'ZTNA_ROLE'
    throw configError(`${at}: role ${JSON.stringify(chosen)} is not accepted; one of ${ROLES.join(', ')}`)
  }
  const settings = new Map<string, Found>()
  const overrides: string[] = []
  for (const setting of SETTINGS.filter((known) => known.roles.includes(chosen))) {
    const candidates = [fromFlag(setting, flags), fromVariable(setting, environment), file.get(setting.key)]
    const found = candidates.filter((candidate) => candidate !== undefined)
    const [winner, ...hidden] = found
    if (winner !== undefined) settings.set(setting.key, winner)
    for (const loser of hidden) overrides.push(`${winner?.source} overrides ${loser.source}`)
    if (winner === undefined && setting.fallback !== undefined) {
      const value = typeof setting.fallback === 'object' ? [...setting.fallback] : setting.fallback
      settings.set(setting.key, { value, source: `default of ${setting.key}` })
    }
  }
  for (const [key, { source }] of file) {
    const setting = SETTINGS.find((known) => known.key === key)
    if (setting !== undefined && !setting.roles.includes(chosen)) {
      throw configError(
        `${source}: not a setting of ${chosen === 'agent' ? 'an' : 'a'} ${chosen}; it belongs to ${setting.roles.join(', ')}`,
      )
    }
  }
  // A role that a file describes lacks what the file lacks; one on the command line, what was not typed.
  if (!settings.has('network')) {
    const missing = 'no network: give --network DIR, ZTNA_NETWORK or the key `network`'
    throw path === undefined ? new UsageError(missing) : configError(`${path}: ${missing}`)
  }
  const get = (key: string): Value | undefined => settings.get(key)?.value
  return {
    role: chosen,
    get,
    text: (key) => (typeof get(key) === 'string' ? (get(key) as string) : undefined),
    list: (key) => (Array.isArray(get(key)) ? (get(key) as readonly string[]) : []),
    number: (key) => (typeof get(key) === 'number' ? (get(key) as number) : undefined),
    source: (key) => settings.get(key)?.source ?? key,
    overrides,
    fileNews: () => (path === undefined ? undefined : newsOf(path, file)),
  }
}

function newsOf(path: string, before: ReadonlyMap<string, Found>): string | undefined {
  let now: Map<string, Found>
  try {
    now = readFile(path)
  } catch (error) {
    return `${(error as Error).message}; this process goes on with what it read at its start`
  }
  const keys = [...new Set([...before.keys(), ...now.keys()])].toSorted()
  const changed = keys.filter((key) => JSON.stringify(before.get(key)?.value) !== JSON.stringify(now.get(key)?.value))
  return changed.length === 0 ? undefined : `${path} has changed since the start: ${changed.join(', ')}; restart to apply it`
}

function checkVariables(environment: NodeJS.ProcessEnv): void {
  const known = [...SETTINGS.map(variableOf), ...OTHER_VARIABLES]
  const unknown = Object.keys(environment).filter((name) => name.startsWith('ZTNA_') && !known.includes(name))
  if (unknown.length > 0) throw configError(`environment: unknown ${unknown.join(', ')}; accepted: ${known.join(', ')}`)
}

function fromFlag(setting: Setting, flags: Readonly<Record<string, unknown>>): Found | undefined {
  const value = flags[attributeOf(setting)]
  if (value === undefined) return undefined
  try {
    const source = flagOf(setting, value === true)
    return { value: coerce(setting, value, source), source }
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function fromVariable(setting: Setting, environment: NodeJS.ProcessEnv): Found | undefined {
  const source = variableOf(setting)
  const text = environment[source]
  if (text === undefined || text === '') return undefined
  const value = setting.type === 'list' ? text.split(',').map((item) => item.trim()) : text
  return { value: coerce(setting, value, source), source }
}

function readFile(path: string): Map<string, Found> {
  let text: string
  let table: Record<string, unknown>
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw fileError(path, error)
  }
  try {
    table = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    throw configError(`${path}:${error.line}: ${error.message.split('\n')[0]}`)
  }
  const found = new Map<string, Found>()
  for (const [key, value] of Object.entries(table)) {
    const source = `${path}:${lineOf(text, key)}: ${key}`
    const setting = SETTINGS.find((known) => known.key === key)
    if (key === 'role') found.set(key, { value: String(value), source })
    else if (setting !== undefined) found.set(key, { value: coerce(setting, value, source), source })
    else throw configError(`${source}: unknown; accepted: role, ${SETTINGS.map((known) => known.key).join(', ')}`)
  }
  return found
}

/** The line a top-level key or table stands on, from 1. */
function lineOf(text: string, key: string): number {
  const bare = key.replace(/[^\w-]/g, '\\$&')
  const line = new RegExp(`^\\s*(\\[\\[?\\s*)?["']?${bare}["']?\\s*[=.\\]]`)
  return Math.max(1, text.split('\n').findIndex((candidate) => line.test(candidate)) + 1)
}

function coerce(setting: Setting, value: unknown, source: string): Value {
  const refuse = (accepted: string): never => {
    throw configError(`${source}: ${JSON.stringify(value)} is not accepted; ${accepted}`)
  }
  switch (setting.type) {
    case 'boolean':
      if (value === true || value === 'true' || value === '1') return true
      if (value === false || value === 'false' || value === '0') return false
      return refuse('true or false')
    case 'number': {
      const least = setting.least ?? 1
      const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
      const fits = typeof number === 'number' && Number.isSafeInteger(number) && number >= least && number <= (setting.most ?? number)
      return fits ? number : refuse(`a whole number from ${least}${setting.most === undefined ? '' : ` to ${setting.most}`}`)
    }
    case 'list': {
      const list = Array.isArray(value) ? value : [value]
      return list.every((item) => typeof item === 'string') ? list : refuse('a list of strings')
    }
    case 'string':
      if (typeof value !== 'string' || value === '') return refuse(setting.choices?.join(', ') ?? 'a string')
      if (setting.choices !== undefined && !setting.choices.includes(value)) return refuse(`one of ${setting.choices.join(', ')}`)
      return value
  }
}
