import { afterAll, beforeAll, expect, test } from 'vitest'
import { Loopback } from '../lib/loopback.ts'
import { Proc } from '../lib/proc.ts'
import { plain, Terminal } from '../lib/terminal.ts'
import { ztnaCommand } from '../lib/ztna.ts'

// What a person at a terminal sees while an agent or a connector looks for its relay.

let lab: Loopback
const roles: Proc[] = []

beforeAll(async () => {
  lab = await Loopback.create({ services: [{ name: 'web', tcp: [80] }] })
})
afterAll(async () => {
  for (const role of roles) await role.stop('SIGTERM')
  lab?.[Symbol.dispose]()
})

const command = (role: string, name: string, ...args: string[]): readonly string[] => {
  const own = ['--network', `${lab.dir}/${role}-${name}`, '--control', `${lab.dir}/${role}-${name}.sock`]
  return [...ztnaCommand(), role, ...own, ...args]
}

function start(role: string, name: string, ...args: string[]): Proc {
  const [file = '', ...rest] = command(role, name, ...args)
  const proc = new Proc(null, file, rest)
  roles.push(proc)
  return proc
}

test('a role on a terminal shows that it looks for its relay, why it finds none, and then what it found', async () => {
  await using agent = new Terminal(command('agent', 'alice'))
  await using connector = new Terminal(command('connector', 'c1'), { env: { NO_COLOR: '1' } })
  await agent.until(/[|/\\-] looking for relay r1, \d+ s/)
  const told = await agent.until(/not online\S*: no relay answers: relay r1 .* check that the relay runs .*; it goes on trying/)
  await agent.until(/looking for relay r1/, told.length)
  await connector.until(/looking for relay r1/)

  const relay = start('relay', 'r1', '--listen', lab.relayAddress)
  await relay.waitFor(/^online/)
  for (const terminal of [agent, connector]) {
    await terminal.until(/relay r1\S*: \d+\.\d ms\r\n/)
    await terminal.until(/online\r\n$/)
    const after = terminal.output.slice(terminal.output.search(/\d+\.\d ms\r\n/))
    expect(after).not.toContain('looking for')
  }
  // The line itself is wiped away; what stands above it is not.
  expect(plain(connector.output.replaceAll(/[^\n]*\r(?!\n)/g, ''))).not.toContain('looking for')
  // Colours are what `NO_COLOR` forbids.
  expect(agent.output).toContain('\u001b[32mrelay r1\u001b[0m')
  expect(connector.output.replaceAll('\u001b[K', '')).not.toContain('\u001b')
  for (const terminal of [agent, connector]) {
    terminal.key('\u0003')
    expect(await terminal.ended).toEqual({ code: 0, cooked: true })
  }
  await relay.stop('SIGTERM')
})

test('a role that is stopped while it looks wipes its line away', async () => {
  await using terminal = new Terminal(command('agent', 'alice'))
  await terminal.until(/looking for relay r1/)
  terminal.key('\u0003')
  expect((await terminal.ended).code).toBe(0)
  const [last = ''] = terminal.output.split('\r').slice(-1)
  expect(terminal.output.split('\n').at(-1)).not.toMatch(/looking for[^\r]*$/)
  expect(last).not.toContain('looking for')
})

test('nothing moves where the output is for a program: with --json, in a pipe, or on a terminal that can not', async () => {
  await using json = new Terminal(command('agent', 'alice', '--json', '--log-format', 'json'))
  await using dumb = new Terminal(command('connector', 'c1'), { env: { TERM: 'dumb' } })
  // Both have tried in vain, and said so in their logs.
  await json.until(/"level":"warn"[^\n]*does not answer/)
  await dumb.until(/WARN [^\n]*does not answer/)
  const relay = start('relay', 'r1', '--listen', lab.relayAddress)
  await json.until(/"event":"online"/)
  await dumb.until(/online\r\n/)
  for (const { output } of [json, dumb]) {
    expect(output).not.toContain('looking for')
    expect(output).not.toContain('\u001b[K')
  }
  await relay.stop('SIGTERM')
})

test('in a pipe nothing but log lines goes to standard error', async () => {
  const agent = start('agent', 'alice')
  await agent.waitFor(/"level":"warn".*does not answer/)
  const relay = start('relay', 'r1', '--listen', lab.relayAddress)
  await agent.waitFor(/^online$/)
  expect(agent.output).not.toContain('looking for')
  await agent.stop('SIGTERM')
  await relay.stop('SIGTERM')
})
