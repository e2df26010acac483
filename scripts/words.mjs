// What must not be in a tracked file: paths of somebody's machine and addresses of package registries. Both tie the
// repository to a place that its reader does not have.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isMain, main, must, report, root } from './lib/process.mjs'

// Spelled with character classes, so that this file passes its own gate.
const patterns = [
  { what: 'path of a machine', pattern: /(?<![\w.])\/(?:wor[k]\/|roo[t]\/\.|hom[e]\/[a-z]|User[s]\/[a-z]|tm[p]\/(?:wt|brief)\b)/i },
  {
    what: 'registry host',
    pattern:
      /\b(?:registr[y]\.npmjs|registr[y]\.yarnpkg|inde[x]\.crates\.io|stati[c]\.crates\.io|prox[y]\.golang|de[b]\.debian|file[s]\.pythonhosted|pyp[i]\.org)/i,
  },
  { what: 'address in a lock file', pattern: /"resolved"\s*:\s*"https?:/ },
]

/** Returns `file:line: what` for each finding in the tracked files. */
export async function words() {
  const { output } = await must('git', ['ls-files', '-z'])
  const findings = []
  for (const file of output.split('\0').filter((name) => name !== '')) {
    const content = await readFile(join(root, file)).catch((error) => {
      // Deleted in the work tree and not yet in the index.
      if (error.code === 'ENOENT') return Buffer.alloc(0)
      throw error
    })
    if (content.includes(0)) continue
    for (const [index, line] of content.toString('utf8').split('\n').entries()) {
      for (const { what, pattern } of patterns) {
        if (pattern.test(line)) findings.push(`${file}:${index + 1}: ${what}: ${line.trim().slice(0, 120)}`)
      }
    }
  }
  return findings
}

if (isMain(import.meta.url)) {
  await main(async () => report(await words()))
}
