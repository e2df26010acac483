import type { Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ask, Echo, open } from '../lib/echo.ts'
import { Loopback } from '../lib/loopback.ts'
import { Proc } from '../lib/proc.ts'
import { plain, Terminal } from '../lib/terminal.ts'
import { ztna, ztnaCommand } from '../lib/ztna.ts'

// `ztna top` and `ztna status` as a person meets them, on a terminal, and as a script does, through a pipe.

const ENTER = '\u001b[?1049h\u001b[?25l'
const LEAVE = '\u001b[?25h\u001b[?1049l'

let lab: Loopback
const roles: Proc[] = []
const control = (name: string): string => `${lab.dir}/${name}.sock`
let client: Socket
let echo: Echo

async function start(role: string, name: string, socket: string, ...args: string[]): Promise<Record<string, unknown>> {
  const [file, ...first] = ztnaCommand()
  const proc = new Proc(null, file, [...first, role, '--network', `${lab.dir}/${role}-${name}`, '--control', socket, '--json', ...args])
  roles.push(proc)
  return JSON.parse((await proc.waitFor(/^\{"event":"online".*/))[0]) as Record<string, unknown>
}

beforeAll(async () => {
  lab = await Loopback.create({ services: [{ name: 'web', tcp: [80] }] })
  echo = await Echo.create()
  await start('relay', 'r1', control('r1'), '--listen', lab.relayAddress)
  await start('connector', 'c1', control('c1'), '--service', `web=tcp:80:${echo.address}`)
  const { listen } = await start('agent', 'alice', control('alice'), '--forward', 'tcp:127.0.0.1:0=web:80')
  const [address = ''] = listen as string[]
  client = await open(address)
  await ask(client, 'hello')
})
afterAll(async () => {
  client?.destroy()
  for (const role of roles) await role.stop('SIGTERM')
  echo?.[Symbol.dispose]()
  lab?.[Symbol.dispose]()
})

const top = (name: string, ...args: string[]): readonly string[] => [...ztnaCommand(), 'top', '--control', control(name), ...args]
// eslint-disable-next-line no-control-regex -- a picture begins with one control sequence and ends with another
const frame = /\u001b\[H.*\u001b\[J/s

test('top takes the whole terminal, shows the flow with its rates, and gives the terminal back at q', async () => {
  await using terminal = new Terminal(top('alice', '--interval', '0.2'))
  await terminal.until(/web:80/)
  expect(terminal.output.startsWith(ENTER)).toBe(true)
  const from = terminal.output.length
  client.write('x'.repeat(100_000))
  const shown = await terminal.until(/web:80 .*\d kB/, from)
  expect(plain(shown)).toMatch(/web:80 +c1 +(direct|relay r1) /)
  terminal.key('q')
  expect(await terminal.ended).toEqual({ code: 0, cooked: true })
  expect(terminal.output.endsWith(LEAVE)).toBe(true)
})

test.each([
  ['Ctrl-C', (terminal: Terminal) => terminal.key('\u0003')],
  ['SIGTERM', (terminal: Terminal) => terminal.signal(15)],
])('%s ends top, and the terminal is as it was', async (_how, end) => {
  await using terminal = new Terminal(top('alice'))
  await terminal.until(/web:80/)
  end(terminal)
  expect(await terminal.ended).toEqual({ code: 0, cooked: true })
  expect(terminal.output.endsWith(LEAVE)).toBe(true)
})

test('top fits a terminal that becomes narrow and low', async () => {
  await using terminal = new Terminal(top('alice'), { columns: 120, rows: 30 })
  await terminal.until(/AGE/)
  const from = terminal.output.length
  terminal.resize(30, 8)
  const drawn = await terminal.until(frame, from)
  const lines = plain(drawn.slice(drawn.lastIndexOf('\u001b[H'))).split('\r\n')
  expect(lines.length).toBeLessThanOrEqual(8)
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(30)
  expect(lines.join('\n')).toContain('web:80')
  expect(lines.join('\n')).not.toContain('AGE')
})

test('a role that ends takes top with it, which gives the terminal back and says why', async () => {
  await start('agent', 'alice', control('second'))
  await using terminal = new Terminal(top('second', '--interval', '0.2'))
  await terminal.until(/no flows/)
  await roles.pop()?.stop('SIGTERM')
  expect(await terminal.ended).toEqual({ code: 75, cooked: true })
  const [, after = ''] = terminal.output.split(LEAVE)
  expect(after).toMatch(/^ztna: control socket .*second\.sock/)
})

test('where no role answers, top leaves the terminal alone and says so', async () => {
  await using terminal = new Terminal([...ztnaCommand(), 'top', '--control', `${lab.dir}/none.sock`])
  expect((await terminal.ended).code).toBe(75)
  expect(terminal.output).not.toContain(ENTER)
  expect(terminal.output).toMatch(/ztna: control socket .*none\.sock/)
})

test('in a pipe top prints one snapshot without colours and ends', async () => {
  const { stdout } = await ztna(['top', '--control', control('c1')])
  expect(stdout).toMatch(/^connector c1 {2}online {2}1 flow {2}in .*\/s {2}out .*\/s/)
  expect(stdout).toMatch(/\nSERVICE .*\nweb:80 +alice /)
  expect(stdout).not.toContain('\u001b')
})

test('top --json prints one object a look, with rates, for agents and for relays', async () => {
  const { stdout } = await ztna(['top', '--control', control('alice'), '--json', '--interval', '0.1', '--count', '2'])
  const samples = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(samples).toHaveLength(2)
  expect(samples[0]).toMatchObject({
    role: 'agent',
    name: 'alice',
    state: 'online',
    flows: [{ service: 'web', port: 80, peer: 'c1', rxPerSecond: 0, txPerSecond: 0 }],
    flowsOmitted: 0,
  })
  const relay = await ztna(['top', '--control', control('r1'), '--json', '--interval', '0.1', '--count', '1'])
  expect(JSON.parse(relay.stdout)).toMatchObject({ role: 'relay', name: 'r1', flows: [{ agent: 'alice', connector: 'c1' }] })
})

test.each([
  ['--interval', '0', '--interval 0: accepted: seconds, from 0.1 to 3600'],
  ['--count', '1.5', '--count 1.5: accepted: a whole number'],
])('top refuses %s %s and says what it takes', async (flag, value, says) => {
  const { code, stderr } = await ztna(['top', '--control', control('alice'), flag, value], { codes: [64] })
  expect(code).toBe(64)
  expect(stderr).toContain(says)
})

test('status has colours on a terminal, and none with NO_COLOR or in a pipe', async () => {
  const command = [...ztnaCommand(), 'status', '--control', control('alice')]
  await using colored = new Terminal(command)
  await colored.ended
  expect(colored.output).toContain('\u001b[32monline\u001b[0m')
  await using sober = new Terminal(command, { env: { NO_COLOR: '1' } })
  await sober.ended
  expect(sober.output).not.toContain('\u001b')
  const words = (text: string): string =>
    plain(text)
      .replace(/[\d.]+/g, '0')
      .replace(/\s+/g, ' ')
  expect(words(sober.output)).toBe(words(colored.output))
  const { stdout } = await ztna(['status', '--control', control('alice')])
  expect(stdout).toMatch(/\nflows\n +id +service +peer +path +received +sent +for\n +\w+ +web:80\/tcp +c1 +/)
})
