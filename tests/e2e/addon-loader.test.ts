import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../lib/proc.ts'

const addon = fileURLToPath(new URL('../../crates/ztna-napi/', import.meta.url))
let dir: string

// The loader as npm installs it, without any addon.
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'ztna-loader-'))
  for (const file of ['index.cjs', 'guard.cjs', 'package.json']) copyFileSync(join(addon, file), join(dir, file))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** What loading says on a machine that `pretend` makes Node tell of. */
async function refusal(pretend: string): Promise<{ code: string; message: string; details: Record<string, unknown> }> {
  const program = `${pretend}
    try { require(${JSON.stringify(join(dir, 'index.cjs'))}) } catch (error) { console.log(error.message) }`
  const { stdout } = await run(null, process.execPath, ['-e', program])
  return JSON.parse(stdout) as { code: string; message: string; details: Record<string, unknown> }
}

const machine = (platform: string, arch: string, glibc: string): string =>
  `Object.defineProperties(process, { platform: { value: '${platform}' }, arch: { value: '${arch}' } })
   process.report.getReport = () => ({ header: { glibcVersionRuntime: ${glibc} } })`

test('a missing addon names the package of this platform, processor and C library, and the command that adds it', async () => {
  const targets = [
    ['linux', 'x64', '"2.36"', 'linux-x64-gnu'],
    ['linux', 'x64', 'undefined', 'linux-x64-musl'],
    ['linux', 'arm64', '"2.36"', 'linux-arm64-gnu'],
    ['linux', 'arm64', 'undefined', 'linux-arm64-musl'],
    ['darwin', 'x64', 'undefined', 'darwin-x64'],
    ['darwin', 'arm64', 'undefined', 'darwin-arm64'],
  ] as const
  for (const [platform, arch, glibc, target] of targets) {
    const { code, message, details } = await refusal(machine(platform, arch, glibc))
    expect(code).toBe('ERR_ZTNA_NATIVE')
    expect(message).toContain(`the package @ztna/native-${target} is not installed. \`npm install @ztna/native-${target}@`)
    expect(message).toContain('--omit=optional')
    expect(details).toMatchObject({ target, package: `@ztna/native-${target}` })
  }
})

test('the C library of this machine is asked for', async () => {
  const { details } = await refusal('')
  expect(details).toMatchObject({ target: `linux-${process.arch}-gnu` })
})

test('a platform without an addon names those with one', async () => {
  const { message } = await refusal(machine('win32', 'x64', 'undefined'))
  expect(message).toBe(
    'there is no addon for win32-x64; there is one for linux-x64-gnu, linux-x64-musl, linux-arm64-gnu, linux-arm64-musl, darwin-x64, darwin-arm64',
  )
})

test('the loader looks for those targets that are built and packed', async () => {
  const manifest = JSON.parse(readFileSync(join(addon, 'package.json'), 'utf8')) as { napi: { targets: string[] } }
  const spelled = manifest.napi.targets.map((triple) =>
    triple.replace(/^x86_64-(?:unknown|apple)-(linux|darwin)/, '$1-x64').replace(/^aarch64-(?:unknown|apple)-(linux|darwin)/, '$1-arm64'),
  )
  const { message } = await refusal(machine('win32', 'x64', 'undefined'))
  expect(message.split('there is one for ')[1]?.split(', ').toSorted()).toEqual(spelled.toSorted())
})

test('an addon that is there and does not load says why, not that it is missing', async () => {
  const folder = join(dir, 'node_modules/@ztna/native-linux-x64-gnu')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{"name":"@ztna/native-linux-x64-gnu","main":"addon.node"}')
  writeFileSync(join(folder, 'addon.node'), 'no library')
  const { message } = await refusal(machine('linux', 'x64', '"2.36"'))
  expect(message).toMatch(/^the addon for linux-x64-gnu is there and can't be loaded: .*file too short|invalid ELF header/)
})
