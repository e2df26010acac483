/** `ztna pki …` and `ztna policy check`: work on folders, no role needed. */
import type { Command } from 'commander'
import { ZtnaDeniedError, configError, fromNative } from '../errors.js'
import { type PkiCommand, native } from '../native.js'
import { isRole } from '../types.js'
import { EXIT, UsageError } from './exit.js'
import { checkNodeName, parseTarget } from './grammar.js'
import { describe } from './human.js'
import { withNotice } from './progress.js'
import { withExamples } from './examples.js'

/** Folders that take longer than a second to be written: a few milliseconds each. */
const MANY = 200

const collect = (text: string, before: string[] | undefined): string[] => [...(before ?? []), text]

/** Errors: ERR_ZTNA_CONFIG for a file, ERR_ZTNA_PERMISSION. */
export function addPkiCommands(program: Command, done: (code: number) => void): void {
  const pki = program.command('pki').description('make and keep a trust folder')
  const add = (usage: string, summary: string, examples: readonly string[]): Command =>
    withExamples(pki.command(usage).description(summary).option('--json', 'print the result as JSON'), examples)

  add('init <DIR>', 'create a trust folder with a new CA', ['ztna pki init /etc/ztna --trust-domain example.test'])
    .requiredOption('--trust-domain <D>', 'lower-case DNS name')
    .option('--zone <ZONE>', 'DNS suffix of services', 'ztna.internal')
    .action((dir: string, flags: { trustDomain: string; zone: string; json?: boolean }) =>
      run('init', { dir, trustDomain: flags.trustDomain, zone: flags.zone }, flags),
    )
  add('issue <DIR> <ROLE> <NAME>', 'issue a certificate, add the entry, publish to OUT', [
    'ztna pki issue /etc/ztna relay r1 --out r1 --url https://192.0.2.1:4433',
    'ztna pki issue /etc/ztna agent alice --out alice --group eng --ttl 24h',
  ])
    .requiredOption('--out <OUT>', 'folder of the node')
    .option('--group <G>', 'group of an agent, repeatable', collect)
    .option('--url <URL>', 'address of a relay, repeatable', collect)
    .option('--ttl <TIME>', 'life of the certificate: 90s, 30m, 24h, 7d', '24h')
    .action((dir: string, role: string, name: string, flags: IssueFlags) => {
      if (!isRole(role)) throw new UsageError(`role "${role}" is not agent, connector or relay`)
      checkNodeName(name)
      const { out, group = [], url = [], ttl } = flags
      run('issue', { dir, role, name, out, groups: group, urls: url, ttlSeconds: parseTtl(ttl) }, flags)
    })
  add('publish <DIR> <OUT...>', 'write the network as it is now to node folders', ['ztna pki publish /etc/ztna r1 c1 alice']).action(
    (dir: string, outs: string[], flags: JsonFlag) =>
      run('publish', { dir, outs }, flags, outs.length < MANY ? undefined : `publishing to ${outs.length} folders`),
  )
  add('renew <DIR> <NAME>', 'issue a new certificate for a node', ['ztna pki renew /etc/ztna alice --out alice'])
    .requiredOption('--out <OUT>', 'folder of the node')
    .option('--ttl <TIME>', 'life of the certificate (default: as before)')
    .action((dir: string, name: string, flags: RenewFlags) => {
      checkNodeName(name, 'or in full')
      const ttlSeconds = flags.ttl === undefined ? null : parseTtl(flags.ttl)
      run('renew', { dir, name, out: flags.out, ttlSeconds }, flags)
    })
  add('revoke <DIR> <NAME>', 'refuse a node from the next publish on', ['ztna pki revoke /etc/ztna alice']).action(
    (dir: string, name: string, flags: JsonFlag) => {
      checkNodeName(name, 'or in full')
      run('revoke', { dir, name }, flags)
    },
  )
  add('rotate-ca <DIR>', 'start a change of the CA; once every node is renewed, run it again to finish', [
    'ztna pki rotate-ca /etc/ztna',
  ]).action((dir: string, flags: JsonFlag) => run('rotate-ca', { dir }, flags))
  addPolicy(program, done)
}

interface JsonFlag {
  json?: boolean
}

interface RenewFlags extends JsonFlag {
  out: string
  ttl?: string
}

interface IssueFlags extends JsonFlag {
  out: string
  group?: string[]
  url?: string[]
  ttl: string
}

/** `24h` in seconds. Errors: UsageError. */
function parseTtl(text: string): number {
  const match = /^(\d{1,9})([smhd])$/.exec(text)
  const seconds = Number(match?.[1]) * ({ s: 1, m: 60, h: 3_600, d: 86_400 }[match?.[2] ?? ''] ?? Number.NaN)
  if (seconds > 0) return seconds
  throw new UsageError(`--ttl ${text}: accepted: a number with s, m, h or d, such as 24h`)
}

/** `notice`: what a person at a terminal reads while it takes long. */
function run(command: PkiCommand, request: object, flags: JsonFlag, notice?: string): void {
  const json = flags.json === true
  const work = (): unknown => asked(() => native().pki(command, JSON.stringify(request)))
  const report = (notice === undefined ? work() : withNotice(notice, work)) as Record<string, unknown>
  const { warnings, ...rest } = report
  if (Array.isArray(warnings)) for (const warning of warnings) process.stderr.write(`ztna: warning: ${String(warning)}\n`)
  print(json ? report : rest, json)
}

/** What the native side answers. Errors: UsageError where it is an option's value that it refuses. */
function asked(question: () => string): unknown {
  try {
    return JSON.parse(question())
  } catch (thrown) {
    const error = fromNative(thrown)
    const { at } = error.details
    throw error.code === 'ERR_ZTNA_CONFIG' && typeof at === 'string' && at.startsWith('--') ? new UsageError(error.message) : error
  }
}

function print(value: unknown, json: boolean): void {
  const result = value as Record<string, unknown>
  const { expiresAt } = result
  const dated = typeof expiresAt === 'number' ? { ...result, expiresAt: new Date(expiresAt) } : result
  process.stdout.write(`${json ? JSON.stringify(dated) : describe(result)}\n`)
}

interface Policy {
  readonly ok: boolean
  readonly findings: readonly Finding[]
  readonly decision?: {
    readonly allowed: boolean
    /** The only kind of path on which it is; null where that does not matter, and where one was asked for. */
    readonly path: 'direct' | 'relay' | null
    readonly policyId: string | null
    readonly reason: string
  } | null
}

interface Finding {
  readonly severity: 'error' | 'warning'
  /** File, with its line where known. */
  readonly at: string
  readonly message: string
}

const isError = ({ severity }: Finding): boolean => severity === 'error'
const told = ({ at, message }: Finding): string => `${at}: ${message}`

function addPolicy(program: Command, done: (code: number) => void): void {
  const check = program.command('policy').description('policies of a trust folder').command('check <DIR>')
  withExamples(check.description('validate network and policies; with --agent and --to, decide one flow'), [
    'ztna policy check /etc/ztna',
    'ztna policy check /etc/ztna --agent alice --to web:80 --protocol tcp',
    'ztna policy check /etc/ztna --agent alice --to web:80 --path direct',
  ])
    .option('--agent <NAME>', 'who asks')
    .option('--to <SERVICE:PORT>', 'for what')
    .option('--protocol <P>', 'tcp or udp', 'tcp')
    .option('--path <PATH>', 'on which kind of path: direct or relay (default: each, where a policy reads context.path)')
    .option('--json', 'print the result as JSON')
    .action((dir: string, flags: { agent?: string; to?: string; protocol: string; path?: string; json?: boolean }) => {
      const { agent = null, to = null, protocol, path = null, json = false } = flags
      if ((agent === null) !== (to === null)) throw new UsageError('--agent and --to go together')
      if (to !== null && parseTarget(to).port === undefined) throw new UsageError(`--to ${to}: accepted: SERVICE:PORT`)
      if (protocol !== 'tcp' && protocol !== 'udp') throw new UsageError(`--protocol ${protocol}: accepted: tcp, udp`)
      if (path !== null && path !== 'direct' && path !== 'relay') throw new UsageError(`--path ${path}: accepted: direct, relay`)
      if (path !== null && to === null) throw new UsageError('--path goes with --agent and --to')
      if (agent !== null) checkNodeName(agent)
      const policy = asked(() => native().policyCheck(JSON.stringify({ dir, agent, to, protocol, path }))) as Policy
      print(policy, json)
      if (!policy.ok) throw configError(`${dir}: not valid: ${policy.findings.filter(isError).map(told).join('; ')}`)
      if (policy.decision && !policy.decision.allowed) throw new ZtnaDeniedError(`denied: ${policy.decision.reason}`, 'connector')
      done(EXIT.ok)
    })
}
