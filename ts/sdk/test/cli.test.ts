import { statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { beforeEach, expect, test, vi } from 'vitest'
import { loadSettings } from '../src/cli/config.js'
import { type Request, ask, findControl, serveControl } from '../src/cli/control.js'
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
  expect(parseForward('udp:127.0.0.1:5353=dns,direct-only')).toMatchObject([{ service: 'dns', path: 'direct-only' }])
  expect(parseForward('tcp:[::1]:8000-8001=web:80-81,relay-only')).toMatchObject([{ path: 'relay-only' }, { path: 'relay-only' }])
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

test.each([
  ['tcp:28090=web', '--forward tcp:28090=web: "28090" is not HOST:PORT or [IPv6]:PORT; accepted: tcp|udp:HOST:PORT'],
  ['tcp:a:b:1=web:80', '"a:b:1" is not HOST:PORT'],
  ['tcp:8000-8001=web:1-2', 'accepted: tcp|udp:HOST:PORT'],
  ['sctp:1.2.3.4:1=web', 'unix:/PATH=SERVICE[:PORT], such as tcp:127.0.0.1:8080=web:80'],
  ['unix:x=web', 'is absolute'],
  ['tcp:127.0.0.1:1=web:80,fast', 'and at the end ,direct-only or ,relay-only'],
])('the forward %s is refused with the forms that are accepted', (spec, reason) => {
  expect(() => parseForward(spec)).toThrow(reason)
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

test.each(['null', '[]', '{}', '{"cmd":1}', 'status'])('the control request %s gets an error that shows a right one', async (line) => {
  const path = join(tempDir(), 'agent-x.sock')
  const served = await serveControl(path, async () => null)
  const reply = await new Promise<string>((resolve) => {
    const socket = connect(path, () => socket.write(`${line}\n`)).setEncoding('utf8')
    socket.once('data', (text: unknown) => resolve(String(text)))
  })
  const error = { code: 'ERR_ZTNA_CONFIG', message: 'a request is one line of JSON, such as {"cmd":"status"}' }
  expect(JSON.parse(reply)).toMatchObject({ ok: false, error })
  served.close()
})

test('a role that is asked for by an unknown name is answered with those that run', async () => {
  const base = tempDir()
  vi.spyOn(process, 'getuid').mockReturnValue(1000)
  vi.stubEnv('XDG_RUNTIME_DIR', base)
  const served = await Promise.all(
    ['agent-alice', 'connector-c1'].map((name) => serveControl(join(base, 'ztna', `${name}.sock`), async () => null)),
  )
  const dir = join(base, 'ztna')
  await expect(findControl({ name: 'bob' })).rejects.toThrow(
    `no running role named "bob" found in ${dir}; running: agent alice, connector c1`,
  )
  await expect(findControl({ role: 'relay' })).rejects.toThrow(`no running relay found in ${dir}; running: agent alice`)
  expect(await findControl({ role: 'agent' })).toBe(join(dir, 'agent-alice.sock'))
  for (const { close } of served) close()
  await expect(findControl({})).rejects.toThrow(`no running role found in ${dir}; no role runs there`)
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
})

test('check and ping ask the agent where other roles run beside it', async () => {
  const base = tempDir()
  vi.spyOn(process, 'getuid').mockReturnValue(1000)
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true)
  vi.stubEnv('XDG_RUNTIME_DIR', base)
  const asked: string[] = []
  const answer = (name: string) => async (request: Request) => {
    asked.push(`${name}: ${request.cmd}`)
    return { allowed: true, by: 'connector', reason: 'a policy', rttMs: 1, path: { kind: 'relay', relay: 'r1' } }
  }
  const served = await Promise.all(
    ['agent-alice', 'connector-c1', 'relay-r1'].map((name) => serveControl(join(base, 'ztna', `${name}.sock`), answer(name))),
  )
  expect(await main(['node', 'ztna', 'check', 'web:80'])).toBe(0)
  expect(await main(['node', 'ztna', 'ping', 'web'])).toBe(0)
  expect(asked).toEqual(['agent-alice: check', 'agent-alice: ping'])
  for (const { close } of served) close()
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
})

test.each([
  ['an unknown option', ['agent', '--bogus']],
  ['a wrong value', ['agent', '--network', '/x', '--forward', 'foo']],
  ['a number out of range', ['relay', '--network', '/x', '--loops', '65']],
  ['a wrong role', ['status', '--role', 'boss']],
])('%s is told in the one form of usage errors', async (_, words) => {
  let said = ''
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => (said += String(text)) !== '')
  expect(await main(['node', 'ztna', ...words])).toBe(64)
  vi.restoreAllMocks()
  expect(said).toMatch(/^ztna: .+\n\(add --help for usage and examples\)\n$/)
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
