import { appendFileSync, chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Trust, ztna } from '../lib/ztna.ts'

// The exit codes of the contract over every command: 64 for what is wrong on the command line itself, 78 for what is wrong in a
// file, a variable or an identity, or names what they don't hold, 3 only for a denial, 75 for nobody there. Each says what and why.

const dir = mkdtempSync(join(tmpdir(), 'ztna-exit-'))
const at = (name: string): string => join(dir, name)
let busy: Server
let busyAt: string

beforeAll(async () => {
  const trust = await Trust.init(dir)
  appendFileSync(join(trust.dir, 'network.toml'), '\n[[service]]\nname = "web"\nconnectors = ["c1", "c9"]\ntcp = [80]\n')
  await ztna(['pki', 'issue', trust.dir, 'relay', 'r1', '--url', 'https://127.0.0.1:1', '--out', at('r1')])
  await ztna(['pki', 'issue', trust.dir, 'connector', 'c1', '--out', at('c1')])
  await ztna(['pki', 'issue', trust.dir, 'agent', 'alice', '--out', at('alice')])
  await ztna(['pki', 'issue', trust.dir, 'agent', 'gone', '--out', at('gone')])
  await ztna(['pki', 'revoke', trust.dir, 'gone'])
  cpSync(trust.dir, at('typo'), { recursive: true })
  const typo = join(at('typo'), 'network.toml')
  writeFileSync(typo, readFileSync(typo, 'utf8').replace('"example.test"', '"wrong.test"'))
  busy = createServer().listen(0, '127.0.0.1')
  await once(busy, 'listening')
  busyAt = `127.0.0.1:${(busy.address() as AddressInfo).port}`
  writeFileSync(at('file'), '')
  writeFileSync(at('broken.toml'), 'role =\n')
  writeFileSync(at('agent.toml'), 'role = "agent"\n')
  writeFileSync(at('boss.toml'), 'role = "boss"\n')
  mkdirSync(at('wide'))
  for (const file of ['cert.pem', 'key.pem', 'ca.pem', 'network.toml', 'snapshot.json']) {
    writeFileSync(join(at('wide'), file), file === 'snapshot.json' ? '{"version":1,"hashes":{}}' : '')
  }
  chmodSync(join(at('wide'), 'key.pem'), 0o644)
})
afterAll(() => {
  busy.close()
  rmSync(dir, { recursive: true, force: true })
})

/** `@name` is a path in the folder of this test, `@busy` an address that is taken. */
const fill = (word: string): string => (word === '@busy' ? busyAt : word.replace(/@(\w+(\.toml)?)/, (_, name: string) => at(name)))

type Row = readonly [code: number, command: string, says: RegExp, env?: Readonly<Record<string, string>>]

const USAGE: readonly Row[] = [
  [64, '', /Usage: ztna/],
  [64, 'bogus', /unknown command 'bogus'/],
  [64, '--bogus', /unknown option '--bogus'/],
  [64, 'help bogus', /Usage/],
  [0, '--help', /Usage: ztna/],
  [0, '--version', /^\d+\.\d+\.\d+/],
  [64, 'pki', /Usage: ztna pki/],
  [64, 'pki bogus', /unknown command 'bogus'/],
  [0, 'pki issue --help', /Examples/],
  [0, 'top --help', /Examples/],
  [0, 'doctor --help', /Examples/],
  [0, 'completion --help', /Examples/],
  [0, 'completion bash', /complete -F _ztna ztna/],
  [64, 'completion', /missing required argument 'SHELL'/],
  [64, 'completion tcsh', /Allowed choices are bash, zsh, fish/],
  [64, 'top --once --count 2', /--once and --count exclude one another/],
  [64, 'doctor --timeout 0', /--timeout 0: accepted: seconds/],
  [78, 'doctor --network @nowhere', /there is no such folder/],
]
const PKI: readonly Row[] = [
  [64, 'pki init @new', /required option '--trust-domain/],
  [64, 'pki init @new --trust-domain BAD_', /--trust-domain: `BAD_` must be a lower-case DNS name/],
  [64, 'pki init @new --trust-domain a.test --zone Bad_', /--zone: `Bad_` must be/],
  [78, 'pki init @trust --trust-domain a.test', /not empty/],
  [64, 'pki issue @trust boss x --out @x', /role "boss" is not agent, connector or relay/],
  [64, 'pki issue @trust agent Al_ --out @x', /"Al_" is not a node's name/],
  [64, 'pki issue @trust agent bob', /required option '--out/],
  [64, 'pki issue @trust agent bob --out @x --ttl 5x', /--ttl 5x: accepted/],
  [64, 'pki issue @trust agent bob --out @x --ttl 99999d', /--ttl: must be at least 1 s and end before the CA/],
  [64, 'pki issue @trust agent bob --out @x --group G_', /--group: group name `G_`/],
  [64, 'pki issue @trust agent bob --out @x --url https://a', /--url: only relays have URLs, not an agent/],
  [64, 'pki issue @trust relay r2 --out @x', /--url: a relay needs at least one/],
  [
    64,
    'pki issue @trust relay r2 --out @x --url http://192.0.2.1:4433',
    /--url: `http:\/\/192\.0\.2\.1:4433` is not a relay's URL: https:/,
  ],
  [64, 'pki issue @trust agent bob --out @x more', /too many arguments/],
  [78, 'pki issue @trust agent alice --out @x', /was issued already/],
  [78, 'pki issue @trust agent bob --out @r1', /holds the folder of relay\/r1/],
  [78, 'pki issue @nowhere agent bob --out @x', /not a trust folder/],
  [64, 'pki publish @trust', /missing required argument 'OUT'/],
  [78, 'pki publish @trust @nowhere', /holds no certificate/],
  [0, 'pki publish @trust @r1', /^ztna: warning: .*connector `c9`, which was never issued; issued: c1; `ztna pki issue \S+ connector c9 /m],
  [64, 'pki renew @trust alice', /required option '--out/],
  [64, 'pki renew @trust Al_ --out @x', /"Al_" is not a node's name: .*or <agent\|connector\|relay>\/<name>/],
  [78, 'pki renew @trust carol --out @x', /was never issued here; issued: agent\/alice/],
  [64, 'pki revoke @trust', /missing required argument 'NAME'/],
  [64, 'pki revoke @trust boss/alice', /is not a node's name/],
  [78, 'pki revoke @trust carol', /was never issued here/],
  [78, 'pki rotate-ca @nowhere', /not a trust folder/],
  [78, 'pki publish @typo @r1', /typo\/network\.toml:2: trust_domain is `wrong\.test`, but .* `example\.test`: put that back/],
]
const POLICY: readonly Row[] = [
  [64, 'policy', /Usage: ztna policy/],
  [64, 'policy check', /missing required argument 'DIR'/],
  [78, 'policy check @nowhere', /not a trust folder/],
  [0, 'policy check @trust', /valid +yes/],
  [78, 'policy check @typo', /^ztna: \S+typo: not valid: \S+network\.toml:2: trust_domain is `wrong\.test`/m],
  [64, 'policy check @trust --agent alice', /--agent and --to go together/],
  [64, 'policy check @trust --agent alice --to web', /--to web: accepted: SERVICE:PORT/],
  [64, 'policy check @trust --agent alice --to web:99999', /not a port/],
  [64, 'policy check @trust --agent alice --to web:', /service "web:": accepted: SERVICE or SERVICE:PORT/],
  [64, 'policy check @trust --agent alice --to web::', /service "web::": accepted/],
  [64, 'policy check @trust --agent alice --to web:80 --protocol sctp', /--protocol sctp: accepted: tcp, udp/],
  [64, 'policy check @trust --agent Al_ --to web:80', /"Al_" is not a node's name/],
  [78, 'policy check @trust --agent alcie --to web:80', /agent `alcie`: not in network\.toml; known: alice, gone/],
  [78, 'policy check @trust --agent alice --to wbe:80', /service `wbe`: not in network\.toml; known: web/],
  [3, 'policy check @trust --agent alice --to web:80', /denied: no policy permits it/],
  [3, 'policy check @trust --agent gone --to web:80', /denied: revoked: agent\/gone/],
]
const ROLES: readonly Row[] = [
  ...(['agent', 'connector', 'relay'] as const).flatMap((role): readonly Row[] => [
    [64, role, /no network: give --network DIR/],
    [64, `${role} --bogus`, /unknown option/],
    [64, `${role} more --network @alice`, /too many arguments/],
    [64, `${role} --network`, /argument missing/],
    [64, `${role} --network @alice --log-level loud`, /'loud' is invalid\. Allowed choices are trace/],
    [64, `${role} --network @nowhere --metrics here`, /--metrics here: accepted: HOST:PORT/],
    [64, `${role} --network @nowhere --packets-per-key x`, /--packets-per-key: "x" is not accepted; a whole number from 1/],
    [78, `${role} --network @nowhere`, /nowhere/],
    [77, `${role} --network @wide`, /key\.pem has mode 0644/],
    [78, `${role} --network @${role === 'relay' ? 'alice' : 'r1'}`, /is (a relay|an agent)'s identity/],
  ]),
  [64, 'agent --network @nowhere --forward web', /--forward web: accepted: tcp\|udp:HOST:PORT/],
  [64, 'agent --network @nowhere --socks5 here', /--socks5 here: accepted: HOST:PORT/],
  [64, 'agent --network @nowhere --max-unread-bytes 5', /--max-unread-bytes: "5" is not accepted; a whole number from 1048576/],
  [64, 'relay --network @nowhere --bps-per-session 9', /--bps-per-session: "9" is not accepted; a whole number from 100000/],
  [64, 'relay --network @nowhere --listen here', /--listen here: accepted: HOST:PORT/],
  [64, 'relay --network @nowhere --loops 0', /--loops: "0" is not accepted/],
  [64, 'connector --network @nowhere --service web', /--service web: accepted: NAME=tcp\|udp/],
  [78, 'agent --network @alice --control @a.sock --forward tcp:127.0.0.1:0=wbe:80', /no service `wbe` in this network; known: web/],
  [78, 'agent --network @alice --control @a.sock --metrics @busy', /metrics 127\.0\.0\.1:\d+: .*EADDRINUSE/],
  [78, 'agent --network @alice --control @file', /a file that is no socket is there/],
  [78, 'agent --network @alice --control @file/a.sock', /^ztna: control socket \S+: (ENOTDIR|EEXIST)/],
  [78, 'connector --network @c1 --control @c.sock --service wbe=tcp:80:127.0.0.1:1', /service `wbe`: not in this network/],
  [78, 'agent --network @alice', /environment: unknown ZTNA_BOGUS; accepted: /, { ZTNA_BOGUS: '1' }],
  [78, 'agent --network @alice', /ZTNA_LOG_LEVEL: "loud" is not accepted/, { ZTNA_LOG_LEVEL: 'loud' }],
  [78, 'agent --network @alice', /ZTNA_FORWARD web: accepted/, { ZTNA_FORWARD: 'web' }],
]
const RUN: readonly Row[] = [
  [64, 'run', /required option '--config/],
  [64, 'run --config', /argument missing/],
  [78, 'run --config @nowhere', /ENOENT/],
  [78, 'run --config @broken.toml', /broken\.toml:1: /],
  [78, 'run --config @boss.toml', /boss\.toml:1: role: role "boss" is not accepted; one of agent/],
  [78, 'run --config @agent.toml', /agent\.toml: no network: /],
  [78, 'run --config @agent.toml', /ZTNA_ROLE: role "boss" is not accepted/, { ZTNA_ROLE: 'boss' }],
]
const CLIENTS: readonly Row[] = [
  [64, 'status more', /too many arguments/],
  [64, 'status --role boss', /'boss' is invalid\. Allowed choices are agent, connector, relay/],
  [64, 'status --name Al_', /"Al_" is not a node's name/],
  [75, 'status --name nobody-of-that-name', /no running role/],
  [75, 'status --control @nowhere', /control socket .*ENOENT/],
  [64, 'ping', /missing required argument 'SERVICE'/],
  [64, 'ping We_b', /is not a service name/],
  [64, 'ping web --timeout 0', /--timeout 0: accepted: seconds, more than 0/],
  [75, 'ping web --control @nowhere', /control socket/],
  [64, 'check', /missing required argument 'SERVICE'/],
  [64, 'check web:99999', /not a port/],
  [64, 'check web --protocol sctp', /--protocol sctp: accepted/],
  [75, 'check web --control @nowhere', /control socket/],
]

const TABLE = { USAGE, PKI, POLICY, ROLES, RUN, CLIENTS }
test.each(Object.entries(TABLE))('%s: each mistake has its exit code and says what is accepted', async (_, rows) => {
  for (const [code, command, says, env] of rows) {
    const words = command.split(' ').filter((word) => word !== '')
    const result = await ztna(words.map(fill), { codes: 'any', ...(env === undefined ? {} : { env }) })
    const output = result.stdout + result.stderr
    expect([result.code, output], `ztna ${command}`).toEqual([code, expect.stringMatching(says)])
  }
})

test('a running agent tells a service that nobody has from one that is denied', async () => {
  const { Operator } = await import('../lib/operator.ts')
  await using operator = await Operator.create({ policy: '' })
  await operator.start(operator.configure('relay'))
  await operator.start(operator.configure('connector', 'service = ["echo=tcp:7:127.0.0.1:1"]\n'))
  await operator.start(operator.configure('agent'))
  const control = ['--control', join(operator.lab.dir, 'agent.sock')]
  for (const command of ['check', 'ping']) {
    const { stderr } = await ztna([command, 'ehco', ...control], { codes: [78] })
    expect(stderr).toContain('no service "ehco" in this network; known: echo')
  }
  await ztna(['check', 'echo:7', ...control], { codes: [3] })
})
