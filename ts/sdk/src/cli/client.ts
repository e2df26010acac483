/** Commands that ask a running role over its control socket. */
import type { Command } from 'commander'
import type { CheckResult } from '../agent.js'
import type { PathExplanation } from '../explain.js'
import type { PathInfo } from '../types.js'
import { type TimedWhere, type Where, client, ofAgent, parseTimeout, request, timed } from './client-options.js'
import { EXIT, UsageError } from './exit.js'
import { parseTarget } from './grammar.js'
import { describeStatus, explainPath } from './human.js'
import { withExamples } from './examples.js'
import { paintFor } from './style.js'

/** Adds `status`, `ping`, `explain` and `check`. */
export function addClientCommands(program: Command, done: (code: number) => void): void {
  withExamples(client(program, 'status', 'print what a running role is doing'), [
    'ztna status',
    'ztna status --role connector --json',
  ]).action(async (where: Where) => {
    const status = (await request(where, { cmd: 'status' })) as Record<string, unknown>
    if (where.json === true) return print(JSON.stringify(status))
    print(describeStatus(status, paintFor(process.stdout)))
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

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}
