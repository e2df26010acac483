import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { run } from '../lib/proc.ts'

const TARGETS = ['linux-x64-gnu', 'linux-x64-musl', 'linux-arm64-gnu', 'linux-arm64-musl', 'darwin-x64', 'darwin-arm64']
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }
let dir: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ztna-packages-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

test('a release that lacks a target packs nothing and names what is missing', async () => {
  for (const target of TARGETS.filter((name) => name !== 'darwin-x64')) writeFileSync(join(dir, `ztna.${target}.node`), '')
  const { code, stderr } = await script('pack.mjs', ['--addons', dir])
  expect(code).toBe(1)
  expect(stderr).toBe(`${dir} lacks ztna.darwin-x64.node\n`)
})

test('an addon above the size that is stated is refused, and one below is not', async () => {
  const [large, small] = [join(dir, 'large.node'), join(dir, 'small.node')]
  writeFileSync(large, Buffer.alloc(12_000_001))
  writeFileSync(small, Buffer.alloc(12_000_000))
  expect(await script('size.mjs', [small])).toMatchObject({ code: 0, stdout: '' })
  const { code, stdout } = await script('size.mjs', [small, large])
  expect(code).toBe(1)
  expect(stdout).toBe(`${large} has 12000001 bytes; it may have 12000000\n`)
})

test('the addon here runs on the glibc that is stated, and an older one is told apart', async () => {
  expect(await script('glibc.mjs', [])).toMatchObject({ code: 0, stdout: '' })
  const { code, stdout } = await script('glibc.mjs', ['--floor', '2.5'])
  expect(code).toBe(1)
  expect(stdout).toMatch(/needs glibc 2\.[23]\d; what is stated is 2\.5\n$/)
})

test('a file is named from where the caller is, also when npm runs the script in the root', async () => {
  const addon = readdirSync(join(ROOT, 'crates/ztna-napi')).find((name) => name.endsWith('.node')) ?? ''
  symlinkSync(join(ROOT, 'crates/ztna-napi', addon), join(dir, addon))
  for (const name of ['symbols.mjs', 'glibc.mjs']) {
    expect(await script(name, [addon], {}, dir)).toMatchObject({ code: 0, stdout: '' })
    expect(await script(name, [addon], { INIT_CWD: dir }, ROOT)).toMatchObject({ code: 0, stdout: '' })
  }
  expect((await script('pack.mjs', ['--addons', '.'], { INIT_CWD: dir }, ROOT)).stderr).toMatch(`${dir} lacks `)
  expect((await script('publish.mjs', ['.'], { INIT_CWD: dir }, ROOT)).stderr).toMatch(`missing: ${dir}/`)
})

test('a tag of another version is no release', async () => {
  expect(await script('versions.mjs', [`v${version}`])).toMatchObject({ code: 0, stdout: '' })
  const { code, stdout } = await script('versions.mjs', ['v99.0.0'])
  expect(code).toBe(1)
  expect(stdout).toBe(`the tag v99.0.0 says 99.0.0; package.json says ${version}\n`)
})

test('addons are published before who needs them, and what is published already is left alone', async () => {
  for (const name of [...TARGETS.map((target) => `native-${target}`), 'native', 'sdk']) writeFileSync(tarball(name), '')
  const { code, stderr } = await script(
    'publish.mjs',
    [dir],
    npm(`case "$2" in *x64-musl@*) echo '"${version}"'; exit 0;; esac; ${ABSENT}`),
  )
  expect(stderr).toBe(`@ztna/native-linux-x64-musl@${version} is published\n`)
  expect(code).toBe(0)
  const rest = TARGETS.filter((target) => target !== 'linux-x64-musl').map((target) => `native-${target}`)
  const published = [...rest, 'native', 'sdk'].map((name) => `publish ${tarball(name)} --provenance --access public --tag latest\n`)
  expect(readFileSync(join(dir, 'published'), 'utf8')).toBe(published.join(''))
})

test('nothing is published when a target is missing', async () => {
  for (const name of ['native-linux-x64-gnu', 'native', 'sdk']) writeFileSync(tarball(name), '')
  const { code, stderr } = await script('publish.mjs', [dir], npm(ABSENT))
  expect(code).toBe(1)
  expect(stderr).toContain(`missing: ${tarball('native-linux-x64-musl')}, `)
  expect(() => readFileSync(join(dir, 'published'))).toThrow('ENOENT')
})

test('nothing is published while it is not known what is there', async () => {
  for (const name of [...TARGETS.map((target) => `native-${target}`), 'native', 'sdk']) writeFileSync(tarball(name), '')
  const { code, stderr } = await script('publish.mjs', [dir], npm('if [ "$1" = view ]; then echo E500; exit 1; fi'))
  expect(code).toBe(1)
  expect(stderr).toContain('E500')
  expect(() => readFileSync(join(dir, 'published'))).toThrow('ENOENT')
})

/** What npm says of a version that is not there. */
const ABSENT = 'if [ "$1" = view ]; then echo E404; exit 1; fi'

/** An environment whose npm is a few lines of ours, which notes what is published. */
function npm(lines: string): Record<string, string> {
  writeFileSync(join(dir, 'npm'), `#!/bin/sh\n${lines}\necho "$@" >> ${join(dir, 'published')}\n`, { mode: 0o755 })
  return { PATH: `${dir}:${process.env['PATH'] ?? ''}` }
}

function tarball(name: string): string {
  return join(dir, `ztna-${name}-${version}.tgz`)
}

async function script(name: string, args: readonly string[], env: Record<string, string> = {}, cwd: string = process.cwd()) {
  return await run(null, process.execPath, [join(ROOT, 'scripts', name), ...args], { env, cwd, codes: 'any' })
}
