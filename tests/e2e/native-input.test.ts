import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { run } from '../lib/proc.ts'

const fixture = fileURLToPath(new URL('../fixtures/native-input.cjs', import.meta.url))

const addon = fileURLToPath(new URL('../../crates/ztna-napi/index.cjs', import.meta.url))

/** What a program of Node's prints. It has to end by itself. */
async function output(program: string): Promise<string> {
  const { stdout } = await run(null, process.execPath, ['-e', `const native = require(${JSON.stringify(addon)})\n${program}`], {
    timeoutMs: 20_000,
    label: 'program',
  })
  return stdout
}

test('a call that a role refuses because it does not run lets the process end', async () => {
  const printed = await output(`
    const refused = []
    const ask = (role, name, ...args) => {
      const late = (error) => refused.push(name + ' ' + JSON.parse(error.message).code)
      try { role[name](...args).catch(late) } catch (error) { late(error) }
    }
    const of = (role) => new native.NativeRole(role, JSON.stringify({ network: { folder: '/nowhere' } }), () => {})
    const flow = JSON.stringify({ service: 'web', timeoutMs: 1000 })
    const [agent, connector] = [of('agent'), of('connector')]
    for (const name of ['connect', 'datagram', 'ping', 'explain', 'check']) ask(agent, name, 1, flow)
    ask(agent, 'forward', JSON.stringify({ service: 'web' }))
    ask(connector, 'serve', JSON.stringify({ service: 'web', protocol: 'tcp' }))
    ask(connector, 'serve', JSON.stringify({ service: 'web', protocol: 'tcp', target: 'nonsense' }))
    ask(agent, 'reload')
    process.on('exit', () => console.log(refused.join('\\n')))
  `)
  const names = ['connect', 'datagram', 'ping', 'explain', 'check', 'forward', 'serve', 'serve', 'reload']
  expect(printed.trim().split('\n').sort()).toEqual(names.map((name) => `${name} ERR_ZTNA_CLOSED`).sort())
})

// Each case is named before it runs: the last line names one that ends the process.
for (const state of ['new', 'running', 'closed']) {
  for (const where of ['main', 'worker']) {
    const from = where === 'main' ? 'the main thread' : 'a worker thread'
    test(`whatever ${from} gives to what the addon exports, ${state} roles included, is refused in our words`, async () => {
      const { code, stdout, stderr } = await run(null, process.execPath, [fixture, state, where], { codes: 'any', timeoutMs: 100_000 })
      const lines = stdout.trim().split('\n')
      expect({ code, last: lines.at(-1), stderr }).toEqual({ code: 0, last: 'DONE', stderr: '' })
      expect(lines.filter((line) => line.startsWith('WRONG'))).toEqual([])
      expect(lines.length).toBeGreaterThan(4_000)
    })
  }
}
