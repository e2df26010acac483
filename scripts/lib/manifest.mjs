// What the packages of this repository say of themselves.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root } from './process.mjs'

/** The package.json of a folder, which is named from the root: `.`, `ts/sdk`. */
export async function manifestOf(folder) {
  return JSON.parse(await readFile(join(root, folder, 'package.json'), 'utf8'))
}
