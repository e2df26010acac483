import { type Socket, createSocket } from 'node:dgram'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { describeChecks, exitCodeOfChecks } from '../src/cli/doctor.js'
import { unpainted } from '../src/cli/style.js'
import { type DoctorCheck, timed } from '../src/doctor/check.js'
import { checkHost } from '../src/doctor/host.js'
import { checkCertificate } from '../src/doctor/identity.js'
import { readMaterial, spiffeOf } from '../src/doctor/material.js'
import { checkRelay } from '../src/doctor/relay-probe.js'
import { checkBinds, checkBound, checkReloaded, checkServed, checkServices } from '../src/doctor/running.js'
import { ZtnaAgent, ZtnaConnector, ZtnaError, type NetworkContent, type ServiceEntry } from '../src/index.js'
import { toFiles } from '../src/network-source.js'
import { createTestNetwork } from '../src/testing.js'

const check = (name: string, status: DoctorCheck['status']): DoctorCheck => ({ check: name, status, detail: 'd', ms: 1 })

test('a certificate is judged by the time: too early, good, near its end, over', async () => {
  await using net = await createTestNetwork({ services: { web: { tcp: [80] } } })
  const source = (net.agent('alice').network as AsyncIterable<NetworkContent>)[Symbol.asyncIterator]()
  const first = await source.next()
  await source.return?.()
  const material = readMaterial({ files: toFiles(first.value as NetworkContent) })
  const { validFrom = '', validTo = '' } = material.leaf ?? {}
  const [from, until] = [Date.parse(validFrom), Date.parse(validTo)]
  const at = (now: number): readonly [string, string] => {
    const found = checkCertificate(material, now).find((each) => each.check === 'certificate')
    return [found?.status ?? '', found?.detail ?? '']
  }
  expect(at(from - 1_000)).toEqual(['fail', expect.stringContaining('not valid before')])
  expect(at(from + 1_000)).toEqual(['ok', expect.stringContaining('/agent/alice, valid until')])
  expect(at(until - 1_000)).toEqual(['warn', expect.stringContaining('less than a third')])
  expect(at(until)).toEqual(['fail', expect.stringContaining('expired')])
  expect(material.leaf && spiffeOf(material.leaf)).toMatchObject({ role: 'agent', name: 'alice' })
})

test('doctor() of roles on a network in memory asks no socket of the system, and finds nothing wrong', async () => {
  await using net = await createTestNetwork({ services: { web: { tcp: [80] } } })
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  await connector.serve('web', { socket: (socket) => socket.end() })
  const agent = await new ZtnaAgent(net.agent('alice')).start()
  for (const role of [agent, connector, ...net.relays.values()]) {
    const checks = await role.doctor()
    expect(checks.filter(({ status }) => status === 'fail')).toEqual([])
    expect(checks.some((each) => each.check.startsWith('relay '))).toBe(false)
  }
  expect((await agent.doctor()).find((each) => each.check === 'service web')?.status).toBe('ok')
  expect((await connector.doctor()).find((each) => each.check === 'services')?.detail).toContain('serves all')
})

async function bound(address: string, port = 0): Promise<Socket> {
  const socket = createSocket('udp4').bind(port, address)
  await once(socket, 'listening')
  return socket
}

function answering(socket: Socket): Socket {
  return socket.on('message', (request, { port, address }) => {
    const reply = Buffer.from(request.subarray(0, 20))
    reply.writeUInt16BE(0x0101, 0)
    reply.writeUInt16BE(0, 2)
    // What is no answer to the question is passed over.
    socket.send('noise', port, address)
    socket.send(reply, port, address)
  })
}

test('a relay of which one address is silent is a warning that names it', async () => {
  const answers = answering(await bound('127.0.0.1'))
  const silent = await bound('127.0.0.1')
  const urls = [answers, silent].map((socket) => `https://127.0.0.1:${socket.address().port}`)
  try {
    const [found] = await checkRelay({ name: 'r1', urls }, { timeoutMs: 300, here: [] })
    expect(found).toMatchObject({ check: 'relay r1', status: 'warn' })
    expect(found?.detail).toMatch(/answers in .*nothing comes back within 300 ms \(udp-blocked\)/)
  } finally {
    answers.close()
    silent.close()
  }
  expect((await checkRelay({ name: 'r1', urls: ['http://127.0.0.1:1'] }, { timeoutMs: 100 }))[0]?.detail).toContain(
    'is not https://HOST:PORT',
  )
})

test('a relay that is silent at its URL and answers on this machine may have a NAT without hairpin', async () => {
  // 127.0.0.2 stands for the address outside, which leads nowhere from in here.
  const outside = await bound('127.0.0.2')
  const { port } = outside.address()
  const inside = answering(await bound('127.0.0.1', port))
  const relay = { name: 'r1', urls: [`https://127.0.0.2:${port}`] }
  const look = async (own: boolean, here: readonly string[]): Promise<unknown> =>
    (await checkRelay(relay, { timeoutMs: 200, own, here }))[0]
  const contains = (text: string): string => expect.stringContaining(text) as string
  try {
    expect(await look(true, ['127.0.0.3', '127.0.0.1'])).toMatchObject({
      status: 'warn',
      detail: contains(
        `nothing comes back within 200 ms, and 127.0.0.1:${port}/udp of this machine answers: whether nodes reach it can't be judged`,
      ),
      remedy: contains('run `ztna doctor` on a machine outside this network'),
    })
    expect(await look(false, ['127.0.0.3', '127.0.0.1'])).toMatchObject({
      status: 'fail',
      detail: contains(`a relay answers on this machine at 127.0.0.1:${port}/udp: if that is the one, its NAT leads nothing back inside`),
      remedy: contains('inside address'),
    })
    expect(await look(true, ['127.0.0.3'])).toMatchObject({
      status: 'fail',
      detail: contains(`no relay answers on port ${port} of this machine (asked 127.0.0.3)`),
      remedy: contains('start the relay'),
    })
    expect(await look(false, ['127.0.0.3'])).toMatchObject({ status: 'fail', detail: contains('(udp-blocked)') })
  } finally {
    outside.close()
    inside.close()
  }
})

test('limits of the machine that are low are warnings with the setting that raises them', () => {
  const of = (rmem: string, files: string, capabilities = '0'): unknown[] =>
    checkHost((path) => {
      if (path.endsWith('rmem_max')) return rmem
      if (path.endsWith('limits'))
        return `Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 ${files}               files\n`
      return `CapEff:\t${capabilities}\n`
    }).map(({ status, remedy }) => [status, remedy?.replace(/[,=].*/, '')])
  expect(of('212992', '1024')).toEqual([
    ['warn', 'sysctl -w net.core.rmem_max'],
    ['warn', 'LimitNOFILE'],
  ])
  expect(of('8388608', '65536')).toEqual([
    ['ok', undefined],
    ['ok', undefined],
  ])
  expect(of('212992', 'unlimited', '0000000000001000')[0]).toEqual(['ok', undefined])
  const nothing = checkHost(() => {
    throw new Error('no /proc')
  })
  expect(nothing).toEqual([])
})

test('services are told apart: permitted, denied, no connector, not served there', async () => {
  const named = (name: string): ServiceEntry => ({ name, connectors: ['c1'], tcp: [80] })
  const services = [named('a'), named('b'), named('c'), { name: 'd', connectors: ['c1'], udp: ['53-60'] }]
  const found = await checkServices(services, async (target, protocol) => {
    if (target === 'd:53' && protocol === 'udp') return { allowed: true, by: 'connector', reason: 'permitted by `p`' }
    if (target === 'a:80') return { allowed: false, by: 'connector', reason: 'no policy permits it' }
    throw new ZtnaError('ERR_ZTNA_UNREACHABLE', 'why', { details: { reason: target === 'b:80' ? 'not-bound' : 'not-served' } })
  })
  expect(found.map(({ check: name, status, remedy = '' }) => [name, status, remedy.slice(0, 24)])).toEqual([
    ['service a', 'warn', 'permit it in policy.ceda'],
    ['service b', 'fail', 'start `ztna connector` a'],
    ['service c', 'fail', 'give the connector c1 th'],
    ['service d', 'ok', ''],
  ])
  expect((await checkServices([], () => Promise.reject(new Error('not asked'))))[0]?.status).toBe('fail')
})

test('what runs and what lies in the folder are compared', () => {
  const status = (...found: ReturnType<typeof checkReloaded>): string | undefined => found[0]?.status
  expect(status(...checkReloaded(4, 4, undefined))).toBe('ok')
  expect(status(...checkReloaded(4, undefined, undefined))).toBe('ok')
  expect(status(...checkReloaded(4, 5, undefined))).toBe('fail')
  expect(status(...checkReloaded(4, 4, new Date()))).toBe('fail')
  expect(status(...checkServed([], new Set()))).toBe('warn')
  expect(status(...checkServed([{ name: 'web', connectors: ['c1'], tcp: [80] }], new Set()))).toBe('fail')
  expect(status(...checkBound([{ name: 'r1', bound: false, detail: 'no answer' }]))).toBe('fail')
  expect(status(...checkBinds([{ name: 'web', connectors: ['c1', 'c2'] }], new Set(['c2'])))).toBe('ok')
})

test('a check that can not be made is a finding, and never a rejection', async () => {
  const [found] = await timed('key', () => {
    throw new Error('disk on fire')
  })
  expect(found).toMatchObject({ check: 'key', status: 'fail', detail: 'could not be looked at: disk on fire' })
})

test('the exit code says whether trying again may help', () => {
  expect(exitCodeOfChecks([check('key', 'ok'), check('receive-buffer', 'warn')])).toBe(0)
  expect(exitCodeOfChecks([check('relay r1', 'fail'), check('service web', 'fail')])).toBe(75)
  expect(exitCodeOfChecks([check('relay r1', 'fail'), check('services', 'fail')])).toBe(78)
})

test('a person reads the sum', () => {
  const told = (...checks: readonly DoctorCheck[]): string | undefined => describeChecks(checks, unpainted).split('\n').at(-1)
  expect(told(check('a', 'ok'))).toBe('all is well')
  expect(told(check('a', 'warn'), check('b', 'ok'))).toBe('nothing failed, 1 to look at')
  expect(told(check('a', 'fail'), check('b', 'warn'))).toBe('1 of 2 checks failed')
})
