import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { loadSettings } from '../src/cli/config.js'
import { ask, serveControl } from '../src/cli/control.js'
import { parseForward, parseListen, parseService } from '../src/cli/grammar.js'
import { main } from '../src/cli/program.js'
import { useFake } from './fake-native.js'
import { tempDir } from './temp.js'

beforeEach(() => useFake())

test('services, forwards and addresses read as the contract writes them', () => {
  expect(parseService('app=tcp:8000-8010:127.0.0.1:9000')).toMatchObject({
    ports: [8000, 8010],
    target: 'tcp:127.0.0.1:9000',
  })
  expect(parseService('app=tcp:80:unix:/run/app.sock')).toMatchObject({ ports: [80, 80], target: 'unix:/run/app.sock' })
  expect(parseForward('unix:/run/db.sock=db:5432')).toEqual([{ service: 'db', port: 5432, listen: { unix: '/run/db.sock' } }])
  expect(parseForward('tcp:[::1]:8000-8001=web:80-81')).toHaveLength(2)
  expect(parseListen('[::]:0')).toBe('[::]:0')
})

test.each([
  ['web', 'accepted'],
  ['Web=tcp:80:h:1', 'not a service name'],
  ['web=sctp:80:h:1', 'not tcp or udp'],
  ['web=tcp:90-80:h:1', 'backwards'],
  ['web=tcp:1-10:h:65530', 'past port 65535'],
  ['web=udp:1:unix:/x', 'tcp only'],
])('the service %s is refused with its reason', (spec, reason) => {
  expect(() => parseService(spec)).toThrow(reason)
})

test('a flag hides a variable, which hides the file, and each is told', () => {
  const file = join(tempDir(), 'ztna.toml')
  writeFileSync(file, 'role = "agent"\nlog_level = "warn"\n')
  const settings = loadSettings(undefined, { network: 'n', logLevel: 'debug' }, { ZTNA_LOG_LEVEL: 'error' }, file)
  expect(settings.text('log_level')).toBe('debug')
  expect(settings.overrides).toEqual(['--log-level overrides ZTNA_LOG_LEVEL', `--log-level overrides ${file}:2: log_level`])
})

test.each([
  ['role = "agent"\n\nlog_level = "loud"\n', ':3: log_level: "loud" is not accepted; one of trace'],
  ['role = "agent"\nforwrad = []\n', ':2: forwrad: unknown; accepted: role, network'],
  ['role = "agent"\nnetwork = \n', ':2: '],
  ['role = "agent"\nlisten = ["x"]\n', ':2: listen: not a setting of an agent'],
  ['role = "boss"\n', ':1: role: role "boss" is not accepted'],
])('a mistake in the file is told with its line: %j', (content, message) => {
  const file = join(tempDir(), 'ztna.toml')
  writeFileSync(file, content)
  expect(() => loadSettings(undefined, {}, {}, file)).toThrow(message)
})

test('what has changed in the file since the start is named, and a file that no longer reads is told', () => {
  const file = join(tempDir(), 'ztna.toml')
  writeFileSync(file, 'role = "agent"\nnetwork = "n"\nforward = ["tcp:127.0.0.1:0=web:80"]\n')
  const settings = loadSettings(undefined, {}, {}, file)
  expect(settings.fileNews()).toBeUndefined()
  writeFileSync(file, '# only a comment\nrole = "agent"\nnetwork = "n"\nforward = ["tcp:127.0.0.1:0=web:80"]\n')
  expect(settings.fileNews()).toBeUndefined()
  writeFileSync(file, 'role = "agent"\nnetwork = "n"\nlog_level = "debug"\n')
  expect(settings.fileNews()).toBe(`${file} has changed since the start: forward, log_level; restart to apply it`)
  writeFileSync(file, 'role =\n')
  expect(settings.fileNews()).toMatch(/ztna\.toml:1: .*; this process goes on with what it read at its start$/)
})

test('an unknown variable is refused', () => {
  expect(() => loadSettings('agent', {}, { ZTNA_NETWROK: 'x' }, undefined)).toThrow('unknown ZTNA_NETWROK')
})

test('a control socket is private, answers, and is not taken from a live process', async () => {
  const path = join(tempDir(), 'a', 'agent-x.sock')
  const served = await serveControl(path, async ({ cmd }) => ({ cmd }))
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(await ask(path, { cmd: 'status' })).toEqual({ cmd: 'status' })
  await expect(serveControl(path, async () => null)).rejects.toThrow('another process answers')
  served.close()
})

test('a control path that names an ordinary file is refused, and the file stays', async () => {
  const path = join(tempDir(), 'notes.txt')
  writeFileSync(path, 'mine')
  await expect(serveControl(path, async () => null)).rejects.toThrow('no socket is there')
  expect(statSync(path).size).toBe(4)
})

test('usage errors exit 64 and an absent role 75', async () => {
  expect(await main(['node', 'ztna', 'agent', '--bogus'])).toBe(64)
  expect(await main(['node', 'ztna', 'agent', '--network', '/x', '--forward', 'foo'])).toBe(64)
  expect(await main(['node', 'ztna', 'status', '--control', join(tempDir(), 'none.sock')])).toBe(75)
  expect(await main(['node', 'ztna', 'agent', '--help'])).toBe(0)
})
