import { chmodSync, cpSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ZtnaAgent, ZtnaConnector, ZtnaRelay, type DoctorCheck } from '@ztna/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Loopback } from '../lib/loopback.ts'
import { Lab, type Netns } from '../lib/netns.ts'
import { Proc, run } from '../lib/proc.ts'
import { PERMIT_ENG, Trust, ztna, ztnaCommand } from '../lib/ztna.ts'

// `ztna doctor` against set-ups that are broken as people break them: it has to name the fault and what to do about it.

let lab: Loopback
let dir: string
/** Roles of the sound set-up. */
let roles: readonly (ZtnaRelay | ZtnaConnector)[]

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'ztna-doctor-'))
  lab = await Loopback.create({ services: [{ name: 'web', tcp: ['8000-8010', 9000] }] })
  const relay = new ZtnaRelay({ network: `${lab.dir}/relay-r1`, listen: [{ udp: lab.relayAddress }] })
  const services = [{ service: 'web', protocol: 'tcp', ports: [8000, 8010], target: 'tcp:127.0.0.1:9' }] as const
  const connector = new ZtnaConnector({ network: `${lab.dir}/connector-c1`, services })
  roles = [connector, relay]
  await relay.start()
  await connector.start()
})
afterAll(async () => {
  for (const role of roles ?? []) await role.close({ drainMs: 0 })
  lab?.[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

type Seen = Omit<DoctorCheck, 'ms'>
interface Visit {
  readonly code: number | null
  readonly checks: readonly DoctorCheck[]
  of(check: string): Seen
}

async function doctor(args: readonly string[], o: { in?: Netns; env?: Readonly<Record<string, string>> } = {}): Promise<Visit> {
  const { code, stdout } = await ztna(['doctor', ...args, '--json'], { codes: [0, 75, 78], ...o })
  const checks = JSON.parse(stdout) as readonly DoctorCheck[]
  const of = (wanted: string): Seen => {
    const found = checks.filter(({ check }) => check === wanted)
    // The worst, where there are several.
    const [worst] = ['fail', 'warn', 'ok'].flatMap((status) => found.filter((each) => each.status === status))
    if (worst === undefined) throw new Error(`no check ${wanted} in ${stdout}`)
    return worst
  }
  return { code, checks, of }
}

/** A copy of a node's folder, to be broken. */
function copyOf(node: string): string {
  const copy = mkdtempSync(join(dir, `${node}-`))
  cpSync(`${lab.dir}/${node}`, copy, { recursive: true })
  return copy
}

/** A relay and an agent of a network whose relay is said to be there. */
async function withRelayAt(url: string): Promise<string> {
  const trust = await Trust.init(mkdtempSync(join(dir, 'relay-')))
  await trust.issue('relay', 'r1', { urls: [url] })
  return trust.issue('agent', 'alice')
}

test('a sound set-up passes every check, an agent that does not run included', async () => {
  const visit = await doctor(['--network', `${lab.dir}/agent-alice`])
  expect(visit.checks.filter(({ status }) => status === 'fail')).toEqual([])
  expect(visit.code).toBe(0)
  expect(visit.of('relay r1').detail).toMatch(/answers in \d/)
  expect(visit.of('service web')).toMatchObject({ status: 'ok', detail: expect.stringMatching(/permitted/) as string })
  expect(visit.checks.every(({ ms }) => ms >= 0)).toBe(true)
})

test('no two checks of a sound set-up have one name', async () => {
  const { checks, code } = await doctor(['--network', `${lab.dir}/agent-alice`, '--trust', `${lab.dir}/trust`])
  expect(code).toBe(0)
  const names = checks.map(({ check }) => check)
  expect(names).toEqual(expect.arrayContaining(['publication', 'snapshot']))
  expect(names).toEqual([...new Set(names)])
})

test('a certificate that has expired is told with its time, and how to renew it', async () => {
  const trust = await Trust.init(mkdtempSync(join(dir, 'expired-')))
  const out = await trust.issue('agent', 'alice', { ttl: '1s' })
  await sleep(1_500)
  const visit = await doctor(['--network', out])
  expect(visit.code).toBe(78)
  expect(visit.of('certificate')).toMatchObject({
    status: 'fail',
    detail: expect.stringMatching(/^expired at 20\d\d-.* UTC; it is 20/) as string,
    remedy: expect.stringContaining('ztna pki renew TRUST agent/alice --out OUT') as string,
  })
})

test('a clock that is behind is told from a certificate that has expired', async () => {
  const yesterday = '--import=data:text/javascript,const{now}=Date;Date.now=()=>now()-86400000'
  const visit = await doctor(['--network', `${lab.dir}/connector-c1`], { env: { NODE_OPTIONS: yesterday } })
  expect(visit.of('certificate')).toMatchObject({
    status: 'fail',
    detail: expect.stringMatching(/^not valid before .* clock is behind/) as string,
  })
  expect(visit.of('clock')).toMatchObject({ status: 'fail', remedy: expect.stringContaining('timedatectl') as string })
})

test('a key that others may read is told with the command that mends it', async () => {
  const folder = copyOf('agent-alice')
  chmodSync(join(folder, 'key.pem'), 0o644)
  const visit = await doctor(['--network', folder])
  expect(visit.code).toBe(78)
  expect(visit.of('key')).toMatchObject({ status: 'fail', detail: expect.stringContaining('mode 0644') as string })
  const [remedy = ''] = visit.of('key').remedy?.split(';') ?? []
  await run(null, 'sh', ['-c', remedy])
  expect((await doctor(['--network', folder])).of('key').status).toBe('ok')
})

test("another node's key is no key of the certificate", async () => {
  const folder = copyOf('agent-alice')
  cpSync(`${lab.dir}/connector-c1/key.pem`, join(folder, 'key.pem'))
  const visit = await doctor(['--network', folder])
  expect(visit.of('key')).toMatchObject({
    status: 'fail',
    detail: 'key.pem is not the key of cert.pem',
    remedy: expect.stringContaining('same `ztna pki` output') as string,
  })
  expect(visit.of('folder')).toMatchObject({
    status: 'fail',
    detail: expect.stringContaining('key.pem') as string,
    remedy: expect.stringContaining('publish') as string,
  })
})

test('a certificate of another trust domain is told with both', async () => {
  const folder = copyOf('agent-alice')
  const other = await Trust.init(mkdtempSync(join(dir, 'other-')), 'other.test')
  const out = await other.issue('agent', 'alice')
  for (const file of ['cert.pem', 'key.pem', 'ca.pem']) cpSync(join(out, file), join(folder, file))
  expect((await doctor(['--network', folder])).of('certificate')).toMatchObject({
    status: 'fail',
    detail: 'is of the trust domain other.test, and network.toml of example.test',
    remedy: expect.stringContaining('whole folder') as string,
  })
})

test('a relay where nobody listens is told from one that a firewall hides, one without a route and one without a name', async () => {
  await using place = new Lab()
  const [bare, walled, wall] = [await place.netns('bare'), await place.netns('walled'), await place.netns('wall')]
  await place.veth(
    { netns: walled, interface: 'e0', addresses: ['192.0.2.1/24'] },
    { netns: wall, interface: 'e0', addresses: ['192.0.2.9/24'] },
  )
  const rules = 'table inet f {\n chain c {\n type filter hook input priority 0\n meta l4proto udp drop\n }\n}\n'
  await run(wall, 'nft', ['-f', '-'], { input: rules })
  const far = await withRelayAt('https://192.0.2.9:4433')
  const visits = [
    ['nobody listens', /start the relay.*--listen/, await doctor(['--network', await withRelayAt('https://127.0.0.1:9')])],
    ['udp-blocked', /firewall.*let UDP 4433 pass/, await doctor(['--network', far], { in: walled })],
    ['no route (ENETUNREACH)', /ip route get 192\.0\.2\.9/, await doctor(['--network', far], { in: bare })],
    [
      'name relay.invalid does not resolve',
      /mend the URL in network\.toml/,
      await doctor(['--network', await withRelayAt('https://relay.invalid:4433')], { in: bare }),
    ],
  ] as const
  for (const [detail, remedy, visit] of visits) {
    expect(visit.code).toBe(75)
    expect(visit.of('relay r1')).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining(detail) as string,
      remedy: expect.stringMatching(remedy) as string,
    })
  }
})

test('a service whose connector is not there is told, with the connector to start', async () => {
  using alone = await Loopback.create({ services: [{ name: 'web', tcp: [80] }] })
  const relay = new ZtnaRelay({ network: `${alone.dir}/relay-r1`, listen: [{ udp: alone.relayAddress }] })
  await relay.start()
  const visit = await doctor(['--network', `${alone.dir}/agent-alice`, '--timeout', '5'])
  expect(visit.code).toBe(75)
  expect(visit.of('service web')).toMatchObject({
    status: 'fail',
    detail: expect.stringContaining('no connector that serves it is bound') as string,
    remedy: expect.stringContaining('start `ztna connector` as c1') as string,
  })
  const own = (await relay.doctor()).find(({ check }) => check === 'service web')
  await relay.close({ drainMs: 0 })
  expect(own).toMatchObject({ status: 'fail', remedy: expect.stringContaining('start `ztna connector` as c1') as string })
})

test('a service that names a connector without a certificate is found in the trust folder', async () => {
  const trust = await Trust.init(mkdtempSync(join(dir, 'unissued-')))
  trust.addService({ name: 'web', connectors: ['c7'], tcp: [80] })
  const visit = await doctor(['--trust', trust.dir])
  expect(visit.of('connectors')).toMatchObject({
    status: 'warn',
    detail: expect.stringContaining('`c7`') as string,
    remedy: expect.stringContaining('ztna pki issue') as string,
  })
})

test('a service that policy leaves to nobody is something to look at, and no failure', async () => {
  const trust = await Trust.init(mkdtempSync(join(dir, 'locked-')))
  for (const name of ['web', 'vault']) trust.addService({ name, tcp: [80] })
  await trust.issue('relay', 'r1', { urls: [`https://${lab.relayAddress}`] })
  const out = await trust.issue('connector', 'c1')
  await trust.issue('agent', 'alice', { groups: ['eng'] })
  trust.setPolicy(`${PERMIT_ENG}forbid(principal, action, resource == Service::"vault");\n`)
  await trust.publish()
  for (const folders of [
    ['--trust', trust.dir],
    ['--network', out],
    ['--network', out, '--trust', trust.dir],
  ]) {
    const visit = await doctor(folders)
    expect(visit.of('policy')).toMatchObject({
      status: 'warn',
      detail: 'permits no agent anything of: vault',
      remedy: expect.stringMatching(/^nothing if nobody is to reach it; else .*ztna policy check/) as string,
    })
    expect(visit.code).toBe(0)
  }
})

test('a policy that was not published and one that does not parse are told with the place', async () => {
  const trust = await Trust.init(mkdtempSync(join(dir, 'policy-')))
  trust.addService({ name: 'web', tcp: [80] })
  const out = await trust.issue('connector', 'c1')
  await trust.issue('agent', 'alice', { groups: ['eng'] })
  await trust.publish()

  trust.setPolicy('permit(principal in\n')
  expect((await doctor(['--trust', trust.dir])).of('trust-folder')).toMatchObject({
    status: 'fail',
    detail: expect.stringMatching(/policy\.cedar:\d/) as string,
  })

  trust.setPolicy(PERMIT_ENG)
  const late = await doctor(['--network', out, '--trust', trust.dir])
  expect(late.of('publication')).toMatchObject({
    status: 'fail',
    detail: expect.stringMatching(/^version \d+ is older than the trust folder .*policy\.cedar differ/) as string,
    remedy: expect.stringContaining(`ztna pki publish ${trust.dir} ${out}`) as string,
  })
  expect(late.of('policy').remedy).toContain('the trust folder permits it: publish it')
  await trust.publish()
  expect((await doctor(['--network', out, '--trust', trust.dir])).of('publication').status).toBe('ok')
})

test('a half-copied folder is told with the file that does not fit', async () => {
  const folder = copyOf('connector-c1')
  writeFileSync(join(folder, 'policy.cedar'), `${readFileSync(join(folder, 'policy.cedar'), 'utf8')}// later\n`)
  expect((await doctor(['--network', folder])).of('folder')).toMatchObject({
    status: 'fail',
    detail: expect.stringContaining('policy.cedar: does not match its hash') as string,
    remedy: expect.stringContaining('snapshot.json last') as string,
  })
})

test('a running role answers by its control socket, and says what it does not serve', async () => {
  const control = join(dir, 'c2.sock')
  const trust = await Trust.init(mkdtempSync(join(dir, 'running-')))
  for (const name of ['web', 'db']) trust.addService({ name, connectors: ['c2'], tcp: [80] })
  const [, port = ''] = lab.relayAddress.split(':')
  await trust.issue('relay', 'r1', { urls: [`https://127.0.0.1:${port}`] })
  const out = await trust.issue('connector', 'c2')
  const [file, ...first] = ztnaCommand()
  // Its relay is another network's: it answers by UDP and accepts no certificate of this one.
  await using connector = new Proc(null, file, [
    ...first,
    'connector',
    '--network',
    out,
    '--control',
    control,
    '--service',
    'web=tcp:80:127.0.0.1:9',
  ])
  await connector.waitFor(/starting/)
  await expect.poll(async () => (await ztna(['status', '--control', control], { codes: 'any' })).code, { timeout: 10_000 }).toBe(0)
  const visit = await doctor(['--control', control])
  expect(visit.of('relay r1').status).toBe('ok')
  expect(visit.of('bound r1')).toMatchObject({ status: 'fail', remedy: expect.stringContaining("the relay's log") as string })
  expect(visit.of('services')).toMatchObject({
    status: 'fail',
    detail: expect.stringContaining('does not serve db') as string,
    remedy: expect.stringContaining('db=tcp:80:') as string,
  })
})

test('doctor() of a running role looks at the same, and a signal ends it', async () => {
  await using agent = new ZtnaAgent({ network: `${lab.dir}/agent-alice` })
  const before = await agent.doctor()
  expect(before.map(({ check }) => check)).not.toContain('service web')
  await agent.start()
  const checks = await agent.doctor({ timeoutMs: 5_000 })
  expect(checks.filter(({ status }) => status === 'fail')).toEqual([])
  expect(checks.map(({ check }) => check)).toEqual(
    expect.arrayContaining(['folder', 'key', 'clock', 'certificate', 'relay r1', 'snapshot', 'service web', 'open-files']),
  )
  const stop = new AbortController()
  const left = agent.doctor({ signal: stop.signal })
  stop.abort()
  await expect(left).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
  await expect(agent.doctor({ timeoutMs: -1 })).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
})

test('a person reads a line for each check, what to do below it, and the sum at the end', async () => {
  const folder = copyOf('agent-alice')
  chmodSync(join(folder, 'key.pem'), 0o640)
  utimesSync(join(folder, 'snapshot.json'), new Date(), new Date())
  const { stdout } = await ztna(['doctor', '--network', folder], { codes: [78] })
  expect(stdout).toMatch(/^fail {2}key +.*mode 0640.*\n +what to do: chmod 600 /m)
  expect(stdout).toMatch(/^ok {4}relay r1 +127\.0\.0\.1:\d+\/udp answers in /m)
  expect(stdout).toMatch(/\n1 of \d+ checks failed\n$/)
})

test.each([
  [['--network', '/nowhere'], 78, '/nowhere: there is no such folder'],
  [['--trust', '/tmp'], 78, '--trust /tmp: not a trust folder'],
  [['--network', '/tmp', '--role', 'agent'], 64, '--control, --role and --name ask a running role'],
  [['--name', 'nobody'], 75, '--network DIR looks at the folder of a node that does not run'],
])('doctor %j ends with %d and says why', async (args, code, says) => {
  const { stderr } = await ztna(['doctor', ...args], { codes: [code] })
  expect(stderr).toContain(says)
})
