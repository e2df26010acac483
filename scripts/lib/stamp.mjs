// Stamps: a hash of what a step was made from, so that the step runs again only when that has changed.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root } from './process.mjs'

// Beside the modules it vouches for: removing node_modules removes the stamps too.
const folder = join(root, 'node_modules', '.ztna')

/** The SHA-256 of the contents and names of `paths` (files, or folders with all below them), relative to the root. */
export async function hashOf(paths) {
  const hash = createHash('sha256')
  for (const path of paths) {
    for (const file of await filesBelow(path)) {
      hash.update(`${file}\0`)
      hash.update(await readFile(join(root, file)))
    }
  }
  return hash.digest('hex')
}

export async function isStamped(name, hash) {
  const file = join(folder, name)
  return existsSync(file) && (await readFile(file, 'utf8')) === hash
}

export async function stamp(name, hash) {
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, name), hash)
}

/** Every file at or below `path`, sorted; nothing when it does not exist. */
async function filesBelow(path) {
  const absolute = join(root, path)
  if (!existsSync(absolute)) return []
  const entries = await readdir(absolute, { withFileTypes: true }).catch((error) => {
    if (error.code === 'ENOTDIR') return null
    throw error
  })
  if (entries === null) return [path]
  const files = []
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const child = join(path, entry.name)
    if (entry.isDirectory()) files.push(...(await filesBelow(child)))
    else if (entry.isFile()) files.push(child)
  }
  return files
}

/** True when all of `paths` exist. */
export function allExist(paths) {
  return paths.every((path) => existsSync(join(root, path)))
}
