// How large a published addon is. Every installation downloads one; a dependency that doubles it should be noticed before users do.
//
//   node scripts/size.mjs [FILE…]     the addon of this machine, unless files are named; one with its symbols is always too large
import { stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { callersPath, isMain, main, report, root, say } from './lib/process.mjs'
import { addonFile } from './lib/target.mjs'

/** Bytes of a release build without symbols. */
const largest = 12_000_000

/** Returns one sentence for each addon that is too large. */
export async function size(files = [join(root, addonFile())]) {
  const findings = []
  for (const file of files) {
    const { size: bytes } = await stat(file)
    if (bytes > largest) findings.push(`${file} has ${bytes} bytes; it may have ${largest}`)
  }
  return findings
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1)
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const named = process.argv.slice(2).map(callersPath)
    const files = named.length === 0 ? [join(root, addonFile())] : named
    for (const file of files) say(`${basename(file)}: ${megabytes((await stat(file)).size)} MB`)
    return report(await size(files))
  })
}
