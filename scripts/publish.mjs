// Publishes packed packages with provenance: the addons first, then who needs them, so that nobody installs an SDK whose addon is not
// there yet. What is published already is left alone: a release that was interrupted goes on where it stopped.
//
//   node scripts/publish.mjs FOLDER [--dry-run]     run by .github/workflows/release.yml, which npm trusts
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { manifestOf } from './lib/manifest.mjs'
import { Failure, callersPath, isMain, main, must, run, say } from './lib/process.mjs'
import { targetsOf } from './lib/target.mjs'

/** The packages of a release in their order, `{ name, version, file }`; throws, naming them, when tarballs are missing. */
export async function release(folder) {
  const native = await manifestOf('crates/ztna-napi')
  const sdk = await manifestOf('ts/sdk')
  const names = [...targetsOf(native).map((target) => `${native.name}-${target}`), native.name, sdk.name]
  const packages = names.map((name) => {
    const { version } = native
    return { name, version, file: join(folder, `${name.replace('@', '').replace('/', '-')}-${version}.tgz`) }
  })
  const missing = packages.filter(({ file }) => !existsSync(file))
  if (missing.length > 0) throw new Failure(`missing: ${missing.map(({ file }) => file).join(', ')}`)
  return packages
}

async function publish(folder, dryRun) {
  for (const { name, version, file } of await release(folder)) {
    if (await isPublished(name, version)) {
      say(`${name}@${version} is published`)
      continue
    }
    // What comes before a release is asked for by name.
    const tag = version.includes('-') ? 'next' : 'latest'
    const args = ['publish', file, '--provenance', '--access', 'public', '--tag', tag]
    if (dryRun) say(`npm ${args.join(' ')}`)
    else await must('npm', args)
  }
}

/** Anything but a version or a plain "no such thing" is an error: to publish on top of an outage helps nobody. */
async function isPublished(name, version) {
  const { code, output } = await run('npm', ['view', `${name}@${version}`, 'version', '--json'])
  if (code === 0) return output.includes(version)
  if (output.includes('E404')) return false
  throw new Failure(`npm view ${name}@${version}: ${output}`)
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const options = { 'dry-run': { type: 'boolean', default: false } }
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    const [folder] = positionals
    if (folder === undefined) throw new Failure('which folder? (--help tells what there is)')
    await publish(callersPath(folder), values['dry-run'])
  })
}
