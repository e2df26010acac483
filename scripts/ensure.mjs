// Brings a fresh checkout to the point where it can do its job: toolchains, Debian's packages, npm's modules, one build.
// Uses nothing but Node itself, because it runs before anything is installed. Everything it does is skipped when it was done before.
//
//   node scripts/ensure.mjs [build|test|bench]…      default: build
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { build } from './build.mjs'
import { Failure, isMain, main, must, root, say } from './lib/process.mjs'
import { hashOf, isStamped, stamp } from './lib/stamp.mjs'
import { checkToolchains, ensurePackages } from './lib/system.mjs'

/** `groups`: which of Debian's packages the job needs ('build' always comes along). `release`: the build as published. */
export async function ensure(groups = [], { release = false } = {}) {
  await checkToolchains()
  await ensurePackages([...new Set(['build', ...groups])])
  await ensureModules()
  await build({ release })
}

/** `npm ci`, when node_modules is missing or older than package-lock.json. */
async function ensureModules() {
  if (!existsSync(join(root, 'package-lock.json'))) {
    throw new Failure('package-lock.json is missing: `npm install` writes it, and it belongs in the repository')
  }
  const hash = await hashOf(['package-lock.json'])
  if (await isStamped('npm-ci', hash)) return
  say('npm ci')
  await must('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'])
  await stamp('npm-ci', hash)
}

if (isMain(import.meta.url)) await main(() => ensure(process.argv.slice(2)))
