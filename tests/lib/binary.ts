import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The binary of a crate of this repository: the one that `$variable` names, or what `cargo build -p crate` made. */
export function builtBinary(crate: string, variable: string): string {
  const given = process.env[variable]
  if (given !== undefined && given !== '') return given
  const target = process.env['CARGO_TARGET_DIR'] ?? fileURLToPath(new URL('../../target', import.meta.url))
  const built = `${target}/debug/${crate}`
  if (!existsSync(built)) throw new Error(`${built} is missing: run cargo build -p ${crate}, or set ${variable}`)
  return built
}
