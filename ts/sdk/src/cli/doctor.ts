/** `ztna doctor`: what is wrong with a set-up, and what to do about it. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { ZtnaAgent } from '../agent.js'
import { type DoctorCheck, type Finding, fail } from '../doctor/check.js'
import { examineNode, examineTrust } from '../doctor/doctor.js'
import { isTrustFolder } from '../doctor/folder.js'
import { readMaterial, spiffeOf } from '../doctor/material.js'
import { ZtnaError, configError, fromNative } from '../errors.js'
import { type TimedWhere, client, parseTimeout, request, timed } from './client-options.js'
import { withExamples } from './examples.js'
import { EXIT, UsageError } from './exit.js'
import { withProgress } from './progress.js'
import { type Paint, type Tone, paintFor } from './style.js'

interface DoctorFlags extends TimedWhere {
  readonly network?: string
  readonly trust?: string
}

/** Adds `doctor`. */
export function addDoctor(program: Command, done: (code: number) => void): void {
  withExamples(timed(client(program, 'doctor', 'find what is wrong with a set-up, and what to do about it: exit 0, 75 or 78')), [
    'ztna doctor',
    'ztna doctor --network /etc/ztna/alice',
    'ztna doctor --trust /etc/ztna/trust --network out/c1',
  ])
    .option('--network <DIR>', 'folder of a node, which need not run (default: the running role, else $ZTNA_NETWORK)')
    .option('--trust <DIR>', 'trust folder: looked at, and compared with --network')
    .action(async (flags: DoctorFlags) => {
      const timeoutMs = parseTimeout(flags.timeout)
      const checks = await look(flags, timeoutMs)
      const text = flags.json === true ? JSON.stringify(checks) : describeChecks(checks, paintFor(process.stdout))
      process.stdout.write(`${text}\n`)
      done(exitCodeOfChecks(checks))
    })
}

/** One line for each check, its remedy below it, and how it stands at the end. */
export function describeChecks(checks: readonly DoctorCheck[], paint: Paint): string {
  const width = Math.max(0, ...checks.map(({ check }) => check.length)) + 2
  const lines = checks.flatMap(({ check, status, detail, remedy }) => {
    const line = `${paint(TONES[status], status.padEnd(4))}  ${check.padEnd(width)}${detail}`
    return remedy === undefined ? [line] : [line, `${' '.repeat(6 + width)}${paint('title', 'what to do:')} ${remedy}`]
  })
  const count = (wanted: DoctorCheck['status']): number => checks.filter(({ status }) => status === wanted).length
  const [failed, odd] = [count('fail'), count('warn')]
  const verdict = failed > 0 ? `${failed} of ${checks.length} checks failed` : odd > 0 ? `nothing failed, ${odd} to look at` : 'all is well'
  return [...lines, paint(failed > 0 ? 'bad' : odd > 0 ? 'middling' : 'good', verdict)].join('\n')
}

const TONES: Readonly<Record<DoctorCheck['status'], Tone>> = { ok: 'good', warn: 'middling', fail: 'bad' }

/** 75 where all that failed is something that can't be reached, 78 where a file or a setting is wrong. */
export function exitCodeOfChecks(checks: readonly DoctorCheck[]): number {
  const failed = checks.filter(({ status }) => status === 'fail')
  if (failed.length === 0) return EXIT.ok
  return failed.every(({ check }) => /^((relay|service|bound) |start$)/.test(check)) ? EXIT.unreachable : EXIT.config
}

async function look(flags: DoctorFlags, timeoutMs: number): Promise<readonly DoctorCheck[]> {
  const { network, trust, control, role, name } = flags
  const folder = network ?? trust
  if (folder !== undefined) {
    if (control !== undefined || role !== undefined || name !== undefined) {
      throw new UsageError('--network and --trust look at folders; --control, --role and --name ask a running role')
    }
    return withProgress('looking', atFolders(network, trust, timeoutMs))
  }
  try {
    return (await request(flags, { cmd: 'doctor', timeoutMs })) as readonly DoctorCheck[]
  } catch (error) {
    const configured = process.env['ZTNA_NETWORK']
    const none = error instanceof ZtnaError && error.code === 'ERR_ZTNA_UNREACHABLE' && control === undefined
    if (none && configured) return withProgress('looking', atFolders(configured, undefined, timeoutMs))
    if (none) throw new ZtnaError(error.code, `${error.message}; --network DIR looks at the folder of a node that does not run`)
    throw error
  }
}

async function atFolders(network: string | undefined, trust: string | undefined, timeoutMs: number): Promise<readonly DoctorCheck[]> {
  for (const folder of [network, trust])
    if (folder !== undefined && !existsSync(folder)) throw configError(`${folder}: there is no such folder`)
  if (trust !== undefined && !isTrustFolder(trust))
    throw configError(`--trust ${trust}: not a trust folder: it has no ca/; for the folder of a node use --network`)
  if (network === undefined || isTrustFolder(network)) return examineTrust(trust ?? network ?? '')
  const { leaf } = readMaterial({ folder: network })
  const isAgent = leaf !== undefined && spiffeOf(leaf)?.role === 'agent'
  // Agents of one identity run side by side. A second connector would take the place of the first, and a relay has its port.
  const running = isAgent ? { running: () => asAgent(network, timeoutMs) } : {}
  return examineNode({ source: { folder: join(network) }, ...(trust === undefined ? {} : { trust }), ...running }, { timeoutMs })
}

/** What an agent of that folder can reach. */
async function asAgent(network: string, timeoutMs: number): Promise<readonly Finding[]> {
  await using agent = new ZtnaAgent({ network, portMapping: false })
  try {
    await agent.start({ timeoutMs })
  } catch (error) {
    const { message } = fromNative(error)
    return [
      fail(
        'start',
        `an agent of this folder does not come online: ${message}`,
        'see the checks above; the log of the relay says whom it refuses',
      ),
    ]
  }
  return await agent.examine({ timeoutMs }, undefined)
}
