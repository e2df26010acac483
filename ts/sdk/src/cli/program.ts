/** The command line: what there is, and its help. */
import { Command, CommanderError, Option } from 'commander'
import { native } from '../native.js'
import { ROLES, type Role } from '../types.js'
import { addClientCommands } from './client.js'
import { loadSettings } from './config.js'
import { withExamples } from './examples.js'
import { EXIT, UsageError, exitCodeOf } from './exit.js'
import { SETTINGS, attributeOf, flagOf, isSwitchedOff } from './options.js'
import { addPkiCommands } from './pki.js'
import { runRole } from './run.js'
import { addCompletion } from './completion.js'
import { addDoctor } from './doctor.js'
import { addTop } from './top.js'

const EXAMPLES: Record<Role, readonly string[]> = {
  relay: ['ztna relay --network /etc/ztna/r1 --listen 0.0.0.0:4433 --listen [::]:4433 --stun-alt 0.0.0.0:4434'],
  connector: [
    'ztna connector --network /etc/ztna/c1 --service web=tcp:80:127.0.0.1:8080 --service dns=udp:53:127.0.0.1:5353',
    'ztna connector --network /etc/ztna/c1 --service app=tcp:8000-8010:127.0.0.1:9000 --service db=tcp:5432:unix:/run/db.sock',
  ],
  agent: [
    'ztna agent --network /etc/ztna/alice --forward tcp:127.0.0.1:8080=web:80',
    'ztna agent --network /etc/ztna/alice --forward udp:127.0.0.1:5353=dns:53 --forward tcp:[::1]:8000-8010=app:8000-8010',
    'ztna agent --network /etc/ztna/alice --forward unix:/run/db.sock=db:5432 --socks5 127.0.0.1:1080',
  ],
}

const SUMMARY: Record<Role, string> = {
  relay: 'run a relay: a public meeting point that forwards what it can not read',
  connector: 'run a connector: serve private services from beside them',
  agent: 'run an agent: reach services from local ports',
}

const HINT = '(add --help for usage and examples)'

/** Runs one command line; resolves with its exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  let code: number = EXIT.ok
  const done = (result: number): void => void (code = result)
  const program = new Command('ztna').description('Zero-trust network access').exitOverride()
  program.showHelpAfterError(HINT)
  program.configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'ztna: ')) })
  program.option('--version', 'print the version')
  program.on('option:version', () => {
    process.stdout.write(`${native().version()}\n`)
    throw new CommanderError(0, 'ztna.version', '')
  })
  for (const role of ['relay', 'connector', 'agent'] as const) {
    const command = withExamples(withSettings(program.command(role).description(SUMMARY[role]), [role]), EXAMPLES[role])
    command.action(async (flags: Record<string, unknown>) => {
      done(await runRole(loadSettings(role, flags, process.env, process.env['ZTNA_CONFIG'] || undefined)))
    })
  }
  withExamples(withSettings(program.command('run').description('run the role that a file describes'), ROLES), [
    'ztna run --config /etc/ztna/ztna.toml',
    'ZTNA_LOG_LEVEL=debug ztna run --config ztna.toml',
  ])
    .addOption(new Option('--config <FILE>', 'settings, with `role`').env('ZTNA_CONFIG').makeOptionMandatory())
    .action(async (flags: Record<string, unknown>) => {
      done(await runRole(loadSettings(undefined, flags, process.env, String(flags['config']))))
    })
  addPkiCommands(program, done)
  addClientCommands(program, done)
  addTop(program)
  addDoctor(program, done)
  addCompletion(program)
  try {
    await program.parseAsync([...argv])
    return code
  } catch (error) {
    // Commander has printed its own.
    if (!(error instanceof CommanderError)) {
      process.stderr.write(`ztna: ${(error as Error).message}\n`)
      if (error instanceof UsageError) process.stderr.write(`${HINT}\n`)
    }
    return exitCodeOf(error)
  }
}

function withSettings(command: Command, roles: readonly Role[]): Command {
  for (const setting of SETTINGS.filter((known) => known.roles.some((role) => roles.includes(role)))) {
    const fallback = setting.fallback === undefined || setting.type === 'boolean' ? '' : ` (default: ${String(setting.fallback)})`
    const value = setting.value === undefined ? '' : ` <${setting.value}>`
    const option = new Option(`${flagOf(setting)}${value}`, `${setting.help}${fallback}`)
    if (setting.type === 'list') {
      option.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text])
    }
    option.attributeName = () => attributeOf(setting)
    if (isSwitchedOff(setting)) {
      // Without it commander takes the default for a flag, which would win over variable and file.
      const on = new Option(flagOf(setting, true)).hideHelp()
      on.attributeName = () => attributeOf(setting)
      command.addOption(on)
    }
    if (setting.choices !== undefined) option.choices(setting.choices)
    command.addOption(option)
  }
  return command
}
