import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The binary that `npm run build` made of a crate of this repository. */
export function builtBinary(crate: string): string {
  const target = process.env['CARGO_TARGET_DIR'] ?? fileURLToPath(new URL('../../target', import.meta.url))
  const built = `${target}/debug/${crate}`
  if (!existsSync(built)) throw new Error(`${built} is missing: run npm run build`)
  return built
}
