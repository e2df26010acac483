import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { beforeAll, expect, test, vi } from 'vitest'
import { commandTree } from '../src/cli/command-tree.js'
import { main } from '../src/cli/program.js'
import { useFake } from './fake-native.js'
import { tempDir } from './temp.js'

const scripts: Record<string, string> = {}
let folder: string

beforeAll(async () => {
  useFake()
  for (const shell of ['bash', 'zsh', 'fish']) {
    const written: string[] = []
    const spy = vi.spyOn(process.stdout, 'write').mockImplementation((text) => written.push(String(text)) > 0)
    try {
      await main(['node', 'ztna', 'completion', shell])
    } finally {
      spy.mockRestore()
    }
    scripts[shell] = written.join('')
  }
  folder = tempDir()
  writeFileSync(join(folder, 'script.bash'), scripts['bash'] ?? '')
  const relay = '[[relay]]\nname = "r1"\nurls = ["https://192.0.2.1:4433"]\n'
  const services = ['web', 'wiki'].map((name) => `[[service]]\nname = "${name}"\nconnectors = ["c1"]\ntcp = [80]\n`)
  writeFileSync(join(folder, 'network.toml'), `trust_domain = "example.test"\n${relay}${services.join('')}`)
})

/** What bash offers for the last of these words. */
function offered(...words: string[]): string[] {
  const run =
    'source "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ztna; ((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; true'
  const output = execFileSync('bash', ['--norc', '-c', run, 'bash', 'ztna', ...words], {
    env: { ...process.env, ZTNA_NETWORK: folder, SCRIPT: join(folder, 'script.bash') },
    cwd: folder,
    encoding: 'utf8',
  })
  return output.split('\n').filter((line) => line !== '')
}

test.each([
  [['to'], ['top']],
  [
    ['pki', 'i'],
    ['init', 'issue'],
  ],
  [
    ['policy', ''],
    ['check', 'help'],
  ],
  [['agent', '--log-l'], ['--log-level']],
  [
    ['agent', '--log-level', ''],
    ['trace', 'debug', 'info', 'warn', 'error', 'off'],
  ],
  [['--version', 'top', '--role', 'a'], ['agent']],
  [['status', '--role', '=', 'r'], ['relay']],
  [['status', '--name', 'pki', '--js'], ['--json']],
  [
    ['check', 'web', '--protocol', ''],
    ['tcp', 'udp'],
  ],
  [['pki', 'issue', 'trust', 're'], ['relay']],
  [
    ['completion', ''],
    ['bash', 'zsh', 'fish'],
  ],
])('bash completes %j to %j', (words, expected) => expect(offered(...words)).toEqual(expected))

test('bash completes names of services from the folder that the line or the environment names', () => {
  expect(offered('ping', '')).toEqual(['web', 'wiki'])
  expect(offered('explain', 'wi')).toEqual(['wiki'])
  expect(offered('doctor', '--network', '/nowhere', '--json', '')).toEqual([])
})

test('bash completes folders where a folder is meant, and files where a file is', () => {
  mkdirSync(join(folder, 'node-a'))
  expect(offered('agent', '--network', 'n')).toEqual(['node-a'])
  expect(offered('run', '--config', 'n').toSorted()).toEqual(['network.toml', 'node-a'])
  expect(offered('pki', 'publish', 'trust', 'one', 'n')).toEqual(['node-a'])
})

test('every command and every option that help shows is in each script', () => {
  for (const [shell, script] of Object.entries(scripts)) {
    for (const word of ['rotate-ca', 'completion', 'segmentation-offload', 'trust-domain', 'interval']) {
      expect(`${shell}: ${script.includes(word)} ${word}`).toBe(`${shell}: true ${word}`)
    }
    expect(script).toContain(`ztna completion ${shell}`)
  }
  expect(scripts['zsh']?.startsWith('#compdef ztna\n')).toBe(true)
})

test('words of a summary that a shell would read are quoted', () => {
  expect(scripts['fish']).toContain(
    String.raw`-l network -r -a '(__fish_complete_directories)' -d 'folder of this node, written by ${'`ztna pki`'}'`,
  )
  expect(scripts['zsh']).toContain("'--network:folder of this node, written by `ztna pki`'")
})

test('the tree leaves out what help hides', () => {
  const program = new Command('ztna')
  program.command('shown').description('a\n  b').addOption(new Option('--in-sight <P>')).addOption(new Option('--hidden').hideHelp())
  program.command('secret', { hidden: true })
  const [top, shown] = commandTree(program)
  expect(top?.commands.map(({ name, summary }) => [name, summary])).toEqual([
    ['shown', 'a b'],
    ['help', 'display help for command'],
  ])
  expect(shown?.options.map(({ flag, value }) => [flag, value?.kind])).toEqual([
    ['--in-sight', 'choice'],
    ['--help', undefined],
  ])
})

test('another shell is refused with those that there are', async () => {
  const said: string[] = []
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0)
  try {
    expect(await main(['node', 'ztna', 'completion', 'tcsh'])).toBe(64)
  } finally {
    spy.mockRestore()
  }
  expect(said.join('')).toMatch(/Allowed choices are bash, zsh, fish/)
})
