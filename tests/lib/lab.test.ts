import { existsSync, readdirSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { Lab, assertUnreachable, removeStale, type Netns } from './netns.ts'
import { Proc, run } from './proc.ts'

test('a process gives its lines, its exit code and its memory', async () => {
  await using proc = new Proc(null, 'sh', ['-c', 'echo one; echo two >&2; sleep 5; exit 3'])
  expect((await proc.waitFor(/^(two)$/))[1]).toBe('two')
  expect(proc.rssBytes()).toBeGreaterThan(100_000)
  const short = new Proc(null, 'sh', ['-c', 'printf "no line end"; exit 3'])
  expect(await short.exited).toEqual({ code: 3, signal: null })
  expect(short.output).toBe('no line end')
})

test('waiting for a line that never comes ends with the output and the reason', async () => {
  const proc = new Proc(null, 'sh', ['-c', 'echo something else; exit 7'])
  await expect(proc.waitFor(/^ready$/)).rejects.toThrow(/"code":7[\s\S]*something else/)
  await expect(run(null, 'sh', ['-c', 'echo why >&2; exit 7'])).rejects.toThrow(/code 7[\s\S]*why/)
  await expect(run(null, 'no-such-program', [])).rejects.toThrow(/cannot start no-such-program/)
})

test('a veth pair joins two namespaces and a third is out of reach', async () => {
  await using lab = new Lab()
  const [a, b, c] = [await lab.netns('a'), await lab.netns('b'), await lab.netns('c')]
  await lab.veth({ netns: a, interface: 'eth0', addresses: ['10.1.0.1/24'] }, { netns: b, interface: 'eth0', addresses: ['10.1.0.2/24'] })
  await lab.veth({ netns: b, interface: 'eth1', addresses: ['10.2.0.2/24'] }, { netns: c, interface: 'eth0', addresses: ['10.2.0.1/24'] })
  expect(await sends(a, b, '10.1.0.2')).toBe('hello')
  await assertUnreachable(a, '10.2.0.1', 9)
  // Even an agent that has the route: the namespace between does not forward.
  await lab.route(a, '10.2.0.0/24', '10.1.0.2')
  await lab.route(c, '10.1.0.0/24', '10.2.0.2')
  await assertUnreachable(a, '10.2.0.1', 9)
  await expect(assertUnreachable(a, '10.1.0.2', 9)).rejects.toThrow(/must have no route/)
})

test('the wire joins two namespaces, delays, loses and can be cut', async () => {
  await using lab = new Lab()
  const [a, b] = [await lab.netns('a'), await lab.netns('b')]
  const wire = await lab.wire(
    { netns: a, interface: 'eth0', addresses: ['10.1.0.1/24', 'fd01::1/64'] },
    { netns: b, interface: 'eth0', addresses: ['10.1.0.2/24', 'fd01::2/64'] },
    { delay: '30ms', seed: 7 },
  )
  const started = performance.now()
  expect(await sends(a, b, '10.1.0.2')).toBe('hello')
  // The handshake alone is one round trip of 60 ms.
  expect(performance.now() - started).toBeGreaterThan(60)
  expect(await sends(a, b, 'fd01::2')).toBe('hello')
  expect((await wire.stats()).aToB.packetsIn).toBeGreaterThan(4)
  await wire.down()
  await assertUnreachable(a, '10.1.0.2', 9)
  expect((await wire.stats()).aToB.lost.down).toBeGreaterThan(0)
  await wire.up()
  await wire.set('both', { delay: '0', loss: '10%' })
  expect(await sends(a, b, '10.1.0.2')).toBe('hello')
  await expect(wire.set('a-to-b', { delay: 'soon' })).rejects.toThrow(/50ms/)
  await wire.close()
  await expect(run(a, 'ip', ['link', 'show', 'eth0'])).rejects.toThrow(/does not exist/)
})

test('a lab leaves no namespace, process or folder behind', async () => {
  const lab = new Lab()
  const a = await lab.netns('a')
  const proc = a.spawn('sleep', ['1000'])
  // A grandchild that has lost its parent.
  await run(a, 'sh', ['-c', 'sleep 1001 >/dev/null 2>&1 & echo'])
  await lab[Symbol.asyncDispose]()
  expect(existsSync(`/proc/${proc.pid}`)).toBe(false)
  expect(readdirSync('/run/netns')).not.toContain(a.name)
  expect(existsSync(lab.dir)).toBe(false)
  await lab[Symbol.asyncDispose]()
})

test('what a dead owner left behind is removed at the next start', async () => {
  const dead = execFileSync('sh', ['-c', 'echo $$'], { encoding: 'utf8' }).trim()
  await run(null, 'ip', ['netns', 'add', `zt-${dead}-1-left`])
  await using lab = new Lab()
  const mine = await lab.netns('mine')
  removeStale()
  const names = readdirSync('/run/netns')
  expect(names).not.toContain(`zt-${dead}-1-left`)
  expect(names).toContain(mine.name)
})

/** One line over TCP from `a` to a listener in `b`, as received there. */
async function sends(a: Netns, b: Netns, address: string): Promise<string> {
  const program = `
    const server = require('net').createServer((s) => s.on('data', (d) => { process.stdout.write(String(d)); server.close(); s.end() }))
    server.listen(7, '${address}', () => console.error('listening'))`
  const listener = b.spawn(process.execPath, ['-e', program])
  await listener.waitFor(/listening/)
  await run(a, 'bash', ['-c', `echo hello > /dev/tcp/${address}/7`])
  await listener.exited
  return listener.lines.at(-1) ?? ''
}
