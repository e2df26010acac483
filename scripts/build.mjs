// Builds the addon (and, on Linux, the network lab and the load generator), puts it where Node looks for it, and builds the SDK when
// its sources changed.
//
// Called by ensure.mjs. With `release`: LTO and no symbols, as published; tests, demo and bench use the dev profile.
import { copyFile, rename, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { must, root, say } from './lib/process.mjs'
import { allExist, hashOf, isStamped, stamp } from './lib/stamp.mjs'
import { addonFile } from './lib/target.mjs'

/** Where cargo builds, which its own variable may move. */
const targetDirectory = resolve(root, process.env.CARGO_TARGET_DIR ?? 'target')

export async function build({ release = false } = {}) {
  await buildRust(release)
  await placeAddon(release ? 'release' : 'debug')
  await buildSdk()
}

async function buildRust(release) {
  const packages = ['-p', 'ztna-napi', ...(process.platform === 'linux' ? ['-p', 'ztna-netlab', '-p', 'ztna-load'] : [])]
  const started = Date.now()
  let said = false
  await must('cargo', ['build', '--locked', ...packages, ...(release ? ['--release'] : [])], {
    // A warm build says nothing; a cold one takes minutes and should look alive.
    onLine: (line) => {
      if (!/^\s+(Compiling|Downloading|Downloaded) /.test(line)) return
      if (!said) say('cargo build (minutes the first time: BoringSSL is compiled from source)')
      said = true
      if (line.includes('Compiling')) say(`  ${line.trim()}`)
    },
  })
  if (said) say(`cargo build: ${Math.round((Date.now() - started) / 1000)} s`)
}

/** Copies the library beside the loader. The new file replaces the old name: a process that has the old one mapped keeps it. */
async function placeAddon(profile) {
  const library = process.platform === 'darwin' ? 'libztna_napi.dylib' : 'libztna_napi.so'
  const from = join(targetDirectory, profile, library)
  const to = join(root, addonFile())
  const [source, placed] = await Promise.all([stat(from), stat(to).catch(() => undefined)])
  if (placed !== undefined && placed.size === source.size && placed.mtimeMs >= source.mtimeMs) return
  const temporary = `${to}.${process.pid}`
  try {
    await copyFile(from, temporary)
    await rename(temporary, to)
  } finally {
    await rm(temporary, { force: true })
  }
  say(`addon: ${addonFile()}`)
}

async function buildSdk() {
  const inputs = ['ts/sdk/src', 'ts/sdk/package.json', 'ts/sdk/tsconfig.json', 'ts/sdk/tsup.config.ts', 'crates/ztna-napi/index.d.ts']
  const hash = await hashOf([...inputs, 'package-lock.json'])
  const outputs = [
    'ts/sdk/dist/index.js',
    'ts/sdk/dist/index.cjs',
    'ts/sdk/dist/testing.js',
    'ts/sdk/dist/cli.js',
    'ts/sdk/dist/index.d.ts',
  ]
  if (allExist(outputs) && (await isStamped('sdk', hash))) return
  say('npm run build -w ts/sdk')
  await must('npm', ['run', 'build', '-w', 'ts/sdk'])
  await stamp('sdk', hash)
}
