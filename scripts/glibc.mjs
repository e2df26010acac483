// The oldest glibc that an addon runs on. It is whatever the machine that linked it had the newest symbols of, so it rises unnoticed.
//
//   node scripts/glibc.mjs [--floor 2.34] [FILE…]     the addon of this machine, unless files are named
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { compareVersions } from './lib/compare-versions.mjs'
import { callersPath, isMain, main, must, report, root, say } from './lib/process.mjs'
import { addonFile } from './lib/target.mjs'

/** What Node 20's own programs need, and what is published: linked in a container that has no more. */
export const publishedFloor = '2.28'
/** What is linked on Debian 12, where pthread_create and its like moved from libpthread into glibc 2.34's libc. */
const builtFloor = '2.34'

/** The newest version of glibc's symbols that a file takes, such as `2.34`; undefined where it takes none, as with musl and on macOS. */
export async function glibcOf(file) {
  if (!basename(file).includes('-gnu')) return undefined
  // Not objdump: readelf reads the files of other processors, too.
  const { output } = await must('readelf', ['--version-info', '--wide', file], { stdoutOnly: true })
  const versions = [...output.matchAll(/\bName: GLIBC_(\d[\d.]*)/g)].map(([, version]) => version)
  return versions.toSorted(compareVersions).at(-1)
}

/** Returns one sentence for each addon that needs a newer glibc than `floor`. */
export async function glibc({ floor = builtFloor, files = [join(root, addonFile())] } = {}) {
  const findings = []
  for (const file of files) {
    const needed = await glibcOf(file)
    if (needed !== undefined && compareVersions(needed, floor) > 0) {
      findings.push(`${file} needs glibc ${needed}; what is stated is ${floor}`)
    }
  }
  return findings
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const options = { floor: { type: 'string', default: builtFloor } }
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    const files = positionals.length === 0 ? [join(root, addonFile())] : positionals.map(callersPath)
    for (const file of files) say(`${basename(file)}: ${(await glibcOf(file)) ?? 'no glibc'}`)
    return report(await glibc({ floor: values.floor, files }))
  })
}
