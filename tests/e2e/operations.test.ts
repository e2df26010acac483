import { cpSync, existsSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ask, Echo, open } from '../lib/echo.ts'
import { Operator, parseMetrics, type Sample, scrape, spoil } from '../lib/operator.ts'
import { run } from '../lib/proc.ts'
import { until } from '../lib/programs.ts'
import { type Json, ztna, ztnaCommand } from '../lib/ztna.ts'

/** Long enough that a busy machine does not miss half of it by itself. */
const WATCHDOG_USEC = 4_000_000
/** Node's loop, one of its timers: far below any figure that is judged here. */
const SLACK_MS = 1_500

let echo: Echo
let target: string
beforeAll(async () => {
  echo = await Echo.create()
  target = echo.address
})
afterAll(() => echo?.[Symbol.dispose]())

/** Copies a folder; the call puts it back whole. */
function putBackLater(folder: string, kept: string): () => void {
  cpSync(folder, kept, { recursive: true })
  return () => deliver(kept, folder)
}

/** Puts a folder in the place of another, snapshot.json last, as an operator or somebody in their place would. */
function deliver(from: string, to: string): void {
  const files = readdirSync(from).filter((file) => file !== 'snapshot.json')
  for (const file of readdirSync(to)) if (!existsSync(join(from, file))) rmSync(join(to, file))
  // Each at once, as rsync does: a look in the middle of a copy finds half a file.
  for (const file of [...files, 'snapshot.json']) {
    cpSync(join(from, file), join(to, `.${file}`))
    renameSync(join(to, `.${file}`), join(to, file))
  }
}

test('all three roles run from their ztna.toml and carry traffic', async () => {
  await using operator = await Operator.create()
  const { relay, connector, agent, forward } = await operator.startAll(target)
  expect(await sayThrough(forward, 'hello')).toBe('hello')
  for (const { online } of [relay, connector, agent]) expect(online).toMatchObject({ event: 'online', metrics: expect.any(String) })
  expect([relay, connector, agent].map(({ online }) => [online['role'], online['name']])).toEqual([
    ['relay', 'r1'],
    ['connector', 'c1'],
    ['agent', 'alice'],
  ])
})

test('a mistake in ztna.toml ends every role with 78, its file and line, and what is accepted', async () => {
  await using operator = await Operator.create()
  for (const [role, more, message] of [
    ['relay', 'listen = [4433]\n', /relay\.toml:\d+: .*(redefine|listen)/],
    ['relay', 'loops = "many"\n', /relay\.toml:\d+:/],
    ['relay', 'stun_alt = "here"\n', /relay\.toml:8: stun_alt here: accepted: HOST:PORT/],
    ['connector', 'service = ["echo=tcp:7"]\n', /connector\.toml:6: service echo=tcp:7: accepted: NAME=tcp\|udp:PORT/],
    ['connector', 'log_level = "loud"\n', /connector\.toml:6: log_level: "loud" is not accepted; one of trace, debug, info/],
    ['agent', 'forwrad = ["tcp:127.0.0.1:0=echo:7"]\n', /agent\.toml:6: forwrad: unknown; accepted: role, network, .*forward/],
    ['agent', 'service = ["echo=tcp:7:127.0.0.1:1"]\n', /agent\.toml:6: service: not a setting of an agent; it belongs to connector/],
  ] as const) {
    const { stderr } = await ztna(['run', '--config', operator.configure(role, more)], { codes: [78] })
    expect(stderr, role).toMatch(message)
  }
})

test('an agent that can not listen where a forward wants to ends with 78 and names the address, with and without a relay', async () => {
  await using operator = await Operator.create()
  const config = operator.configure('agent', `forward = ["tcp:127.0.0.1:0=echo:8", "tcp:${target}=echo:7"]\n`)
  for (const step of ['no relay', 'a relay']) {
    if (step === 'a relay') await operator.start(operator.configure('relay'))
    const { stderr, stdout } = await ztna(['run', '--config', config], { codes: [78], timeoutMs: 30_000 })
    expect(stderr, step).toMatch(new RegExp(`listen ${target.replaceAll('.', '\\.')}: .*in use`))
    expect(stdout, step).not.toContain('"online"')
  }
})

test('SIGHUP reads the trust folder again, refuses a bad one with its reason, and flows go on', async () => {
  await using operator = await Operator.create()
  const { relay, connector, agent, forward } = await operator.startAll(target)
  const { trust } = operator.lab
  const flow = await open(forward)
  expect(await ask(flow, 'one')).toBe('one')
  for (const started of [relay, connector, agent]) {
    const folder = trust.out(started.online['role'] as 'agent', String(started.online['name']))
    const restore = spoil(folder)
    const from = started.proc.mark
    started.proc.signal('SIGHUP')
    const [refusal] = await started.proc.waitFor(/^.*not reloaded: .*$/, { from })
    expect(JSON.parse(refusal)).toMatchObject({ level: 'error', code: expect.stringMatching(/^ERR_ZTNA_(CONFIG|PERMISSION|IDENTITY)$/) })
    expect(refusal).toContain('key.pem')
    restore()
  }
  trust.addService({ name: 'later', tcp: [9] })
  await trust.publish()
  for (const started of [relay, connector, agent]) {
    const folder = trust.out(started.online['role'] as 'agent', String(started.online['name']))
    const { version } = JSON.parse(readFileSync(join(folder, 'snapshot.json'), 'utf8')) as { version: number }
    const from = started.proc.mark
    started.proc.signal('SIGHUP')
    expect(JSON.parse((await started.proc.waitFor(/"message":"reloaded"/, { from })).input)).toMatchObject({ version })
  }
  expect(await ask(flow, 'two')).toBe('two')
  flow.destroy()
  operator.configure('relay', 'log_level = "debug"\n')
  const from = relay.proc.mark
  relay.proc.signal('SIGHUP')
  const [line] = await relay.proc.waitFor(/^.*has changed since the start.*$/, { from })
  expect(line).toContain('relay.toml has changed since the start: log_level; restart to apply it')
})

test('an older folder that is put back is refused while the role runs, and publishing again goes back for good', async () => {
  await using operator = await Operator.create()
  const { connector, forward } = await operator.startAll(target)
  expect(await sayThrough(forward, 'before')).toBe('before')
  const { trust } = operator.lab
  const folder = trust.out('connector', 'c1')
  const putBack = putBackLater(folder, join(operator.lab.dir, 'kept'))
  await trust.revoke('alice')
  await trust.publish([folder])
  connector.proc.signal('SIGHUP')
  await connector.proc.waitFor(/"message":"reloaded"/)
  const from = connector.proc.mark
  putBack()
  const [line] = await connector.proc.waitFor(/^.*"message":.*version \d+ is older than \d+, which is in use and stays.*$/, { from })
  expect(JSON.parse(line)).toMatchObject({ level: 'warn', code: 'ERR_ZTNA_CONFIG' })
  connector.proc.signal('SIGHUP')
  await connector.proc.waitFor(/not reloaded: .*is older than/, { from })
  await expect(sayThrough(forward, 'revoked')).rejects.toMatchObject({ code: 'ECONNRESET' })
  // The older state, published again, is the newest.
  await ztna(['pki', 'issue', trust.dir, 'agent', 'alice', '--group', 'eng', '--out', trust.out('agent', 'alice')])
  await trust.publish()
  await until('alice is let in again', () =>
    sayThrough(forward, 'after').then(
      (answer) => answer === 'after',
      () => false,
    ),
  )
})

test('a folder that has become that of another role is refused, and flows go on', async () => {
  await using operator = await Operator.create()
  const { relay, connector, agent, forward } = await operator.startAll(target)
  const { trust } = operator.lab
  const flow = await open(forward)
  expect(await ask(flow, 'one')).toBe('one')
  const folders = [trust.out('relay', 'r1'), trust.out('connector', 'c1'), trust.out('agent', 'alice')]
  const kept = folders.map((folder, i) => join(operator.lab.dir, `kept-${i}`))
  for (const [i, folder] of folders.entries()) cpSync(folder, kept[i] ?? '', { recursive: true })
  for (const [i, started] of [relay, connector, agent].entries()) {
    const from = started.proc.mark
    const next = (i + 1) % folders.length
    deliver(kept[next] ?? '', folders[i] ?? '')
    const [line] = await started.proc.waitFor(/^.*"message":"not reloaded: .*$/, { from })
    expect(JSON.parse(line)).toMatchObject({ level: 'warn', code: 'ERR_ZTNA_IDENTITY' })
    expect(line).toMatch(/the folder now holds the certificate of `spiffe:\S+`, and `spiffe:\S+` runs on/)
    started.proc.signal('SIGHUP')
    await started.proc.waitFor(/"level":"error".*not reloaded: /, { from })
    expect(started.proc.lines.slice(from).filter((l) => l.includes('"message":"reloaded"'))).toEqual([])
  }
  expect(await ask(flow, 'two')).toBe('two')
  expect(await sayThrough(forward, 'a new flow')).toBe('a new flow')
  flow.destroy()
})

test('a relay says once what is wrong with its folder, whatever the number of its loops', async () => {
  await using operator = await Operator.create()
  const { relay } = await operator.startAll(target)
  const { trust } = operator.lab
  const folder = trust.out('relay', 'r1')
  const kept = putBackLater(folder, join(operator.lab.dir, 'kept'))
  await trust.publish()
  relay.proc.signal('SIGHUP')
  await relay.proc.waitFor(/"message":"reloaded"/)
  const from = relay.proc.mark
  kept()
  await relay.proc.waitFor(/"level":"warn".*is older than/, { from })
  // Each loop looks five times a second on its own.
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  expect(relay.proc.lines.slice(from).filter((line) => line.includes('"level":"warn"') && line.includes('is older than'))).toHaveLength(1)
})

test('metrics of every role satisfy the reference parser, have all families, and count while traffic flows', async () => {
  await using operator = await Operator.create()
  const { relay, connector, agent, forward } = await operator.startAll(target)
  const before = await parseMetrics((await scrape(agent, '/metrics')).text)
  const flow = await open(forward)
  const block = 'x'.repeat(100_000)
  expect(await ask(flow, block)).toBe(block)
  for (const started of [relay, connector, agent]) {
    const { status, type, text } = await scrape(started, '/metrics')
    expect([status, type]).toEqual([200, 'application/openmetrics-text; version=1.0.0; charset=utf-8'])
    const { families, helps, units, samples } = await parseMetrics(text)
    for (const name of Object.keys(families)) expect(helps[name], name).toMatch(/^[A-Z].+\.$/)
    expect(units).toEqual({ ztna_bytes: 'bytes', ztna_certificate_expiry_seconds: 'seconds', ...(started === relay ? {} : NODE_UNITS) })
    const own = started === relay ? RELAY_FAMILIES : NODE_FAMILIES
    expect(families).toMatchObject({ ...FAMILIES, ...own })
    expect(value(samples, 'ztna_up')).toBe(1)
    expect(value(samples, 'ztna_certificate_expiry_seconds')).toBeGreaterThan(0)
    // The two ends may talk past the relay by now.
    expect(sum(samples, 'ztna_bytes_total')).toBeGreaterThan(started === relay ? 0 : 100_000)
    const health = await scrape(started, '/healthz')
    expect([health.status, JSON.parse(health.text)]).toEqual([200, { state: 'online' }])
  }
  const after = await parseMetrics((await scrape(agent, '/metrics')).text)
  expect(sum(after.samples, 'ztna_bytes_total') - sum(before.samples, 'ztna_bytes_total')).toBeGreaterThan(2 * block.length)
  expect(sum(after.samples, 'ztna_flows')).toBe(sum(before.samples, 'ztna_flows') + 1)
  expect(value((await parseMetrics((await scrape(relay, '/metrics')).text)).samples, 'ztna_sessions')).toBe(1)
  flow.destroy()
})

test('health turns to 503 with a reason while the relay is gone, and back', async () => {
  await using operator = await Operator.create()
  const { relay, agent } = await operator.startAll(target)
  await relay.proc.stop('SIGKILL')
  await until('the agent is degraded', async () => (await scrape(agent, '/healthz')).status === 503, 60_000)
  const health = JSON.parse((await scrape(agent, '/healthz')).text) as Json
  expect(health).toMatchObject({ state: 'degraded', reason: expect.stringMatching(/./) })
  expect(value((await parseMetrics((await scrape(agent, '/metrics')).text)).samples, 'ztna_up')).toBe(0)
  await operator.start(join(operator.lab.dir, 'relay.toml'))
  await until('the agent is online', async () => (await scrape(agent, '/healthz')).status === 200, 60_000)
})

test('SIGTERM with a flow that does not end drains for its time and exits 0; a second one stops at once', async () => {
  await using operator = await Operator.create()
  const { connector, agent, forward } = await operator.startAll(target)
  const flow = await open(forward)
  expect(await ask(flow, 'hello')).toBe('hello')
  connector.proc.signal('SIGTERM')
  await connector.proc.waitFor(/draining; a second signal stops at once/)
  expect(await connector.proc.exited).toEqual({ code: 0, signal: null })

  const held = await operator.start(join(operator.lab.dir, 'connector.toml'))
  const again = await open(forward)
  expect(await ask(again, 'hello')).toBe('hello')
  held.proc.signal('SIGTERM')
  await held.proc.waitFor(/draining; a second signal stops at once/)
  held.proc.signal('SIGTERM')
  // At the end of its time it would be 0.
  expect(await held.proc.exited).toEqual({ code: 1, signal: null })
  expect(agent.proc.exit).toBeUndefined()
  flow.destroy()
  again.destroy()
})

test('logs are one JSON object a line where standard error is no terminal, and for reading where it is one', async () => {
  await using operator = await Operator.create()
  const { relay, connector, agent, forward } = await operator.startAll(target)
  expect(await sayThrough(forward, 'hello')).toBe('hello')
  for (const { proc } of [agent, connector, relay]) await proc.stop()
  for (const { proc } of [relay, connector, agent]) {
    const logged = proc.lines.map((line) => JSON.parse(line) as Json).filter((line) => !('event' in line))
    expect(logged.length).toBeGreaterThan(0)
    for (const line of logged) {
      expect(line).toMatchObject({ level: expect.stringMatching(/^(debug|info|warn|error)$/), message: expect.any(String) })
      expect(new Date(String(line['time'])).toISOString()).toBe(line['time'])
    }
  }
  const another = JSON.stringify(operator.lab.trust.out('relay', 'r1'))
  writeFileSync(
    join(operator.lab.dir, 'broken.toml'),
    `role = "agent"\nnetwork = ${another}\ncontrol = "${operator.lab.dir}/broken.sock"\n`,
  )
  const command = [...ztnaCommand(), 'run', '--config', join(operator.lab.dir, 'broken.toml')].join(' ')
  // script(1) gives the program a terminal.
  const { stdout } = await run(null, 'script', ['-qec', command, '/dev/null'], { codes: [78], env: { NO_COLOR: '' } })
  expect(stdout).toContain(' \u001b[31mERROR\u001b[0m ')
  const plain = await run(null, 'script', ['-qec', command, '/dev/null'], { codes: [78], env: { NO_COLOR: '1' } })
  expect(plain.stdout).toMatch(/^\d\d:\d\d:\d\d\.\d{3} ERROR .* is a relay's identity/m)
})

test('an admitted flow is in the log with who opened it, a refused one in the logs of both ends under one decision ID', async () => {
  const policy = 'permit(principal in Group::"eng", action == Action::"connect", resource) when { context.port == 7 };'
  await using operator = await Operator.create({ policy })
  const { connector, agent, forward, other } = await operator.startAll(target)
  expect(await sayThrough(forward, 'hello')).toBe('hello')
  const alice = 'spiffe://example.test/agent/alice'
  const admitted = JSON.parse((await connector.proc.waitFor(/"message":"flow admitted"/)).input) as Json
  expect(admitted).toMatchObject({ level: 'info', peer: alice, service: 'echo', protocol: 'tcp' })
  // It may be reset before it has told that it was accepted.
  const [host, port] = other.split(':')
  const refused = connect(Number(port), host).on('error', () => undefined)
  const [theirs, ours] = await Promise.all(
    [connector, agent].map(async ({ proc }) => JSON.parse((await proc.waitFor(/"level":"warn","message":"denied by /)).input) as Json),
  )
  expect(theirs).toMatchObject({
    level: 'warn',
    code: 'ERR_ZTNA_DENIED',
    peer: alice,
    by: 'connector',
    decisionId: expect.stringMatching(/./),
    service: 'echo',
    port: expect.any(Number),
    protocol: 'tcp',
  })
  expect(ours).toMatchObject({ level: 'warn', by: 'connector', decisionId: theirs?.['decisionId'], service: 'echo', protocol: 'tcp' })
  refused.destroy()
})

test('a flow that its target refuses is in the logs of both ends with the code, the address and what to look at', async () => {
  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const nobody = `127.0.0.1:${(closed.address() as AddressInfo).port}`
  closed.close()
  await once(closed, 'close')
  await using operator = await Operator.create()
  const relay = await operator.start(operator.configure('relay'))
  const gone = join(operator.lab.dir, 'gone.sock')
  const services = `service = ["echo=tcp:7:${nobody}", "echo=tcp:8:unix:${gone}"]\n`
  const connector = await operator.start(operator.configure('connector', services))
  const forwards = 'forward = ["tcp:127.0.0.1:0=echo:7", "tcp:127.0.0.1:0=echo:8"]\n'
  const agent = await operator.start(operator.configure('agent', forwards))
  for (const [index, address] of (agent.online['listen'] as string[]).entries()) {
    const [host, port] = address.split(':')
    const socket = connect(Number(port), host).on('error', () => undefined)
    const service = { level: 'warn', code: 'ERR_ZTNA_REFUSED', cause: 'ECONNREFUSED', service: 'echo', port: 7 + index, protocol: 'tcp' }
    const at = index === 0 ? nobody : gone
    const line = new RegExp(`"message":"flow failed: .*${at.replaceAll('.', '\\.')} .*is the service running\\?"`)
    const theirs = JSON.parse((await connector.proc.waitFor(line)).input) as Json
    expect(theirs).toMatchObject({ ...service, peer: 'spiffe://example.test/agent/alice' })
    expect(JSON.parse((await agent.proc.waitFor(line)).input)).toMatchObject(service)
    socket.destroy()
  }
  expect(relay.proc.exit).toBeUndefined()
})

test('a service manager hears READY, RELOADING with the time, READY again, and STOPPING', async () => {
  await using operator = await Operator.create()
  const manager = await operator.serviceManager()
  const relay = await operator.start(operator.configure('relay'), manager.env)
  await manager.waitFor(/"READY": "1"/)
  const before = process.hrtime.bigint() / 1_000n
  relay.proc.signal('SIGHUP')
  const reloading = await manager.waitFor(/"RELOADING": "1"/)
  const time = BigInt(String(reloading['MONOTONIC_USEC']))
  expect(time >= before && time <= BigInt(Number(reloading['atUsec']))).toBe(true)
  await until('READY is told again', () => manager.told().length === 3)
  expect((await relay.proc.stop()).code).toBe(0)
  await manager.waitFor(/"STOPPING": "1"/)
  const told = manager.told().map((message) => Object.keys(message).filter((key) => key !== 'atUsec'))
  expect(told).toEqual([['READY'], ['RELOADING', 'MONOTONIC_USEC'], ['READY'], ['STOPPING']])
})

test('the watchdog is fed more often than twice its period, and not while the packet loop of a live Node process hangs', async () => {
  await using operator = await Operator.create()
  const manager = await operator.serviceManager()
  const relay = await operator.start(operator.configure('relay'), { ...manager.env, WATCHDOG_USEC: String(WATCHDOG_USEC) })
  const pings = (): number[] => manager.told().flatMap((message) => ('WATCHDOG' in message ? [Number(message['atUsec'])] : []))
  await until('four pings came', () => pings().length >= 4)
  const gaps = pings()
    .slice(1)
    .map((at, index) => at - (pings()[index] ?? 0))
  expect(Math.max(...gaps)).toBeLessThan(WATCHDOG_USEC / 2)

  const stopper = await operator.script('stop-thread.py', String(relay.proc.pid), 'ztna-relay-0')
  await new Promise((resolve) => setTimeout(resolve, SLACK_MS))
  const count = pings().length
  await new Promise((resolve) => setTimeout(resolve, WATCHDOG_USEC / 1_000))
  // The health page is Node's alone: the process lives, and is not believed.
  expect((await scrape(relay, '/healthz')).status).toBe(200)
  expect(pings()).toHaveLength(count)
  await stopper.stop('SIGKILL')
  await until('the loop goes on and the watchdog is fed', () => pings().length > count)
})

/** Of every role, by the reference parser's names: a counter's samples end in `_total`. */
const FAMILIES = {
  ztna_up: 'gauge',
  ztna_connections: 'gauge',
  ztna_bytes: 'counter',
  ztna_drops: 'counter',
  ztna_denied: 'counter',
  ztna_handshakes: 'counter',
  ztna_certificate_expiry_seconds: 'gauge',
} as const
const NODE_FAMILIES = {
  ztna_flows: 'gauge',
  ztna_reconnects: 'counter',
  ztna_path_switches: 'counter',
  ztna_packets: 'counter',
  ztna_lost_packets: 'counter',
  ztna_path_rtt_seconds: 'gauge',
  ztna_time_to_direct_seconds: 'histogram',
  ztna_port_bursts: 'counter',
  ztna_checks_held: 'counter',
  ztna_bursts_withheld: 'counter',
  ztna_port_mapping: 'gauge',
} as const
const NODE_UNITS = { ztna_path_rtt_seconds: 'seconds', ztna_time_to_direct_seconds: 'seconds' } as const
const RELAY_FAMILIES = { ztna_sessions: 'gauge' } as const

const sum = (samples: readonly Sample[], name: string): number =>
  samples.filter((sample) => sample.name === name).reduce((total, sample) => total + sample.value, 0)

function value(samples: readonly Sample[], name: string): number {
  const found = samples.filter((sample) => sample.name === name)
  expect(found, name).toHaveLength(1)
  return found[0]?.value ?? Number.NaN
}

async function sayThrough(address: string, text: string): Promise<string> {
  const socket = await open(address)
  const answer = await ask(socket, text)
  socket.destroy()
  return answer
}
