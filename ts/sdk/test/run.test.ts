import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { loadSettings } from '../src/cli/config.js'
import { ask } from '../src/cli/control.js'
import { main } from '../src/cli/program.js'
import { runRole } from '../src/cli/run.js'
import { FakeRole, useFake } from './fake-native.js'
import { tempDir } from './temp.js'

let lines: string[]
let said: string
beforeEach(() => {
  useFake()
  lines = []
  said = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0)
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => (said += String(text)) !== '')
})
afterEach(() => void vi.restoreAllMocks())

/** A folder that looks like a node's. */
function nodeFolder(): string {
  const network = tempDir()
  writeFileSync(join(network, 'snapshot.json'), '{}')
  return network
}

function start(
  more: Readonly<Record<string, unknown>> = {},
  environment: NodeJS.ProcessEnv = {},
): { ended: Promise<number>; control: string } {
  const network = nodeFolder()
  writeFileSync(
    join(network, 'network.toml'),
    'trust_domain = "example.test"\nzone = "ztna.internal"\n[[service]]\nname = "web"\nconnectors = ["c1"]\ntcp = [80]\n',
  )
  const control = join(network, 'c.sock')
  const flags = { network, control, json: true, metrics: '127.0.0.1:0', forward: ['tcp:127.0.0.1:8080=web:80'], ...more }
  return { ended: runRole(loadSettings('agent', flags, environment, undefined)), control }
}

test('an agent says online with what it listens on, answers, and drains on SIGTERM with exit 0', async () => {
  const { ended, control } = start()
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  const online = JSON.parse(lines[0] ?? '') as Record<string, string>
  expect(online).toMatchObject({ event: 'online', role: 'agent', name: 'me', listen: ['127.0.0.1:8080'] })
  expect((await fetch(`http://${online['metrics']}/healthz`)).status).toBe(200)
  expect(await ask(control, { cmd: 'ping', service: 'web' })).toMatchObject({ rttMs: 3, path: { kind: 'relay' } })
  await expect(ask(control, { cmd: 'check', target: 'wbe:80' })).rejects.toMatchObject({
    code: 'ERR_ZTNA_CONFIG',
    message: 'no service "wbe" in this network; known: web',
  })
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
  expect(FakeRole.last.calls).toContainEqual(['close', 10_000])
})

test('a role whose identity was taken over ends with exit 78', async () => {
  const { ended } = start()
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  FakeRole.last.emit({ event: 'error', error: { code: 'ERR_ZTNA_IDENTITY', message: 'taken over from 192.0.2.1' } })
  expect(await ended).toBe(78)
})

test('a metered network and port bursts that are off reach the native role', async () => {
  const { ended } = start({ metered: true, burstSockets: '0', burstChecks: '2048' })
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  expect(FakeRole.last.options['metered']).toBe(true)
  expect(FakeRole.last.options['limits']).toEqual({ burstSockets: 0, burstChecks: 2_048 })
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})

test('a limit on the command line reaches the native role', async () => {
  const { ended } = start({ maxUnreadBytes: '4000000', packetsPerKey: '5000' })
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  expect(FakeRole.last.options['limits']).toEqual({ unreadBytes: 4_000_000, packetsPerKey: 5_000 })
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})

test.each([
  ['by default', {}, {}, true],
  ['with --no-port-mapping', { portMapping: false }, {}, false],
  ['with ZTNA_PORT_MAPPING=false', {}, { ZTNA_PORT_MAPPING: 'false' }, false],
  ['with --port-mapping over the variable', { portMapping: true }, { ZTNA_PORT_MAPPING: 'false' }, true],
])('whether the router is asked for a port reaches the native role %s', async (_, flags, environment, expected) => {
  const { ended } = start(flags, environment)
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  expect(FakeRole.last.options['portMapping']).toBe(expected)
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})

test.each([
  ['by default', {}, true],
  ['with --no-segmentation-offload', { segmentationOffload: false }, false],
])('whether bursts go to the kernel as a whole reaches the native role %s', async (_, flags, expected) => {
  const { ended } = start(flags)
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  expect(FakeRole.last.options['segmentationOffload']).toBe(expected)
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})

test('limits of a relay reach the native role', async () => {
  const flags = { network: nodeFolder(), listen: ['127.0.0.1:0'], control: join(tempDir(), 'c.sock'), bpsPerSession: '5000000' }
  const ended = runRole(loadSettings('relay', flags, {}, undefined))
  await expect.poll(() => lines.length).toBeGreaterThan(0)
  expect(FakeRole.last.options['limits']).toEqual({ bpsPerSession: 5_000_000 })
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})

const BAD: readonly [what: string, flags: (dir: string) => readonly string[], says: RegExp][] = [
  [
    'a folder that is not there',
    (dir) => ['--network', `${dir}/none`],
    /^--network \S+none: there is no such folder; name the folder of this/,
  ],
  [
    'a folder that is a file',
    (dir) => ['--network', `${dir}/file`],
    /^--network \S+file: not a folder; name the folder of this node, which/,
  ],
  ['a trust folder', (dir) => ['--network', `${dir}/trust`], /^--network \S+trust: a trust folder, and no role runs on it; name the/],
  ['an empty folder', (dir) => ['--network', `${dir}/empty`], /^--network \S+empty: without a snapshot\.json: .*; name the/],
  ['a folder within a file', (dir) => ['--network', `${dir}/file/x`], /^--network \S+x: there is no such folder; name the folder of this/],
  [
    'a control path of a file',
    (dir) => ['--control', `${dir}/file`],
    /^control socket \S+file: a file that is no .*; choose another --control PATH$/,
  ],
  [
    'a control path within a file',
    (dir) => ['--control', `${dir}/file/x`],
    /^control socket \S+x: (ENOTDIR|EEXIST): .*; choose another --control PATH$/,
  ],
  [
    'a control path of 200 bytes',
    (dir) => ['--control', join(dir, 'x'.repeat(199 - dir.length))],
    /x: 200 bytes, and the system takes \d+; choose another --control/,
  ],
  [
    'metrics on an address of others',
    () => ['--metrics', '192.0.2.1:1'],
    /^metrics 192\.0\.2\.1:1: .*EADDRNOTAVAIL.*; choose another --metrics ADDR$/,
  ],
]
test.each(BAD)('%s is told in one plain line with the flag and what to do, before anything has begun', async (_, flags, says) => {
  const dir = tempDir()
  writeFileSync(join(dir, 'file'), '')
  mkdirSync(join(dir, 'empty'))
  mkdirSync(join(dir, 'trust', 'ca'), { recursive: true })
  const base = ['--control', join(dir, 'c.sock'), '--network', nodeFolder()]
  expect(await main(['node', 'ztna', 'agent', ...base, ...flags(dir)])).toBe(78)
  expect(said).toMatch(/^ztna: [^\n]+\n$/)
  expect(said.slice('ztna: '.length, -1)).toMatch(says)
  expect(lines).toEqual([])
})

test('what is asked of a role that is just starting is answered once it has begun', async () => {
  const { ended, control } = start()
  await expect.poll(() => existsSync(control)).toBe(true)
  expect(await ask(control, { cmd: 'ping', service: 'web' })).toMatchObject({ rttMs: 3 })
  process.emit('SIGTERM')
  expect(await ended).toBe(0)
})
