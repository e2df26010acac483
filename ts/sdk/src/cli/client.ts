/** Commands that ask a running role over its control socket. */
import { type Command, Option } from 'commander'
import type { CheckResult } from '../agent.js'
import type { PathExplanation } from '../explain.js'
import type { PathInfo } from '../types.js'
import { type Request, ask, findControl } from './control.js'
import { EXIT, UsageError } from './exit.js'
import { checkNodeName, parseTarget } from './grammar.js'
import { describe, explainPath } from './human.js'
import { withExamples } from './examples.js'

interface Where {
  control?: string
  role?: string
  name?: string
  json?: boolean
}

interface TimedWhere extends Where {
  timeout: string
}

/** Adds `status`, `ping`, `explain` and `check`. */
export function addClientCommands(program: Command, done: (code: number) => void): void {
  withExamples(client(program, 'status', 'print what a running role is doing'), [
    'ztna status',
    'ztna status --role connector --json',
  ]).action(async (where: Where) => {
    const status = (await request(where, { cmd: 'status' })) as Record<string, unknown>
    if (where.json === true) return print(JSON.stringify(status))
    print(describe(status))
  })
  withExamples(timed(client(program, 'ping <SERVICE>', 'round trip to the connector of a service')), ['ztna ping web']).action(
    async (service: string, where: TimedWhere) => {
      const timeoutMs = parseTimeout(where.timeout)
      const answer = await request(ofAgent(where), { cmd: 'ping', service: parseTarget(service).service, timeoutMs })
      const { rttMs, path } = answer as { rttMs: number; path: PathInfo }
      print(
        where.json === true
          ? JSON.stringify(answer)
          : `${service}: ${rttMs.toFixed(2)} ms by ${path.kind === 'relay' ? `relay ${path.relay ?? ''}` : path.kind}`.trimEnd(),
      )
    },
  )
  withExamples(timed(client(program, 'explain <SERVICE>', 'why the path to a service is what it is')), [
    'ztna explain web',
    'ztna explain web:80',
  ]).action(async (target: string, where: TimedWhere) => {
    parseTarget(target)
    const timeoutMs = parseTimeout(where.timeout)
    const answer = await request(ofAgent(where), { cmd: 'explain', target, timeoutMs })
    print(where.json === true ? JSON.stringify(answer) : explainPath(target, answer as PathExplanation))
  })
  withExamples(timed(client(program, 'check <SERVICE>', 'ask whether a flow would be permitted: exit 0 or 3')), [
    'ztna check web',
    'ztna check dns:53 --protocol udp',
  ])
    .option('--protocol <P>', 'tcp or udp', 'tcp')
    .action(async (target: string, where: TimedWhere & { protocol: string }) => {
      if (where.protocol !== 'tcp' && where.protocol !== 'udp') throw new UsageError(`--protocol ${where.protocol}: accepted: tcp, udp`)
      parseTarget(target)
      const timeoutMs = parseTimeout(where.timeout)
      const answer = (await request(ofAgent(where), {
        cmd: 'check',
        target,
        protocol: where.protocol,
        timeoutMs,
      })) as CheckResult
      const verdict = answer.allowed ? 'allowed' : 'denied'
      print(where.json === true ? JSON.stringify(answer) : `${target}: ${verdict} by ${answer.by}: ${answer.reason}`)
      done(answer.allowed ? EXIT.ok : EXIT.denied)
    })
}

function client(program: Command, usage: string, summary: string): Command {
  return program
    .command(usage)
    .description(summary)
    .option('--control <PATH>', 'control socket (default: that of the sole running role)')
    .addOption(new Option('--role <ROLE>', 'of the node').choices(['agent', 'connector', 'relay']))
    .option('--name <NAME>', 'name of the node')
    .option('--json', 'print JSON')
}

function timed(command: Command): Command {
  return command.option('--timeout <SECONDS>', 'give up after', '10')
}

/** Only agents can answer: others that run here are no choice. */
function ofAgent<T extends Where>(where: T): T {
  return where.control === undefined && where.role === undefined ? { ...where, role: 'agent' } : where
}

async function request(where: Where, question: Request): Promise<unknown> {
  if (where.name !== undefined) checkNodeName(where.name)
  return ask(await findControl(where), question)
}

function parseTimeout(text: string): number {
  const seconds = Number(text)
  if (seconds > 0 && seconds <= 86_400) return seconds * 1_000
  throw new UsageError(`--timeout ${text}: accepted: seconds, more than 0 and up to 86400`)
}

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}
