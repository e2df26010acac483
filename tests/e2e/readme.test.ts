import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { Lab } from '../lib/netns.ts'
import { run } from '../lib/proc.ts'
import { snippetsOf } from '../lib/snippets.ts'
import { ztnaCommand } from '../lib/ztna.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

test('who follows the README from an empty folder gets the first byte, and runs its first program', async () => {
  const shell = snippetsOf(`${ROOT}README.md`, 'sh').map(({ code }) => code)
  // What installs the packages is the install test's.
  const at = shell.findIndex((code) => code.startsWith('npm init'))
  const [setUp = '', terminals = '', ask = ''] = shell.slice(at + 1)
  const program = snippetsOf(`${ROOT}README.md`).find(({ code }) => code.includes('agent.fetch('))?.code ?? ''
  await using lab = new Lab()
  const machine = await lab.netns('machine')
  const cwd = mkdtempSync(join(tmpdir(), 'ztna-readme-'))
  lab.defer(async () => rmSync(cwd, { recursive: true, force: true }))
  symlinkSync(`${ROOT}node_modules`, join(cwd, 'node_modules'))
  writeFileSync(join(cwd, 'ztna'), `#!/bin/sh\nexec ${ztnaCommand().join(' ')} "$@"\n`)
  chmodSync(join(cwd, 'ztna'), 0o755)
  const env = { PATH: `${cwd}:${process.env['PATH'] ?? ''}` }

  const { stdout } = await run(machine, 'sh', ['-ec', setUp], { cwd, env })
  expect(stdout).toMatch(/allowed +yes/)
  const started = terminals.trim().split('\n')
  expect(started.map((line) => line.split(' ', 2).join(' '))).toEqual(['node -e', 'ztna relay', 'ztna connector', 'ztna agent'])
  for (const [index, line] of started.entries()) {
    // Whoever reads has one machine; the tests share theirs.
    const own = { cwd, env: { ...env, ZTNA_CONTROL: join(cwd, `${index}.sock`) } }
    const terminal = lab.spawn(machine, 'sh', ['-c', `exec ${line}`], own)
    if (line.startsWith('ztna')) await terminal.waitFor(/^online$/)
  }
  expect((await run(machine, 'sh', ['-c', ask], { cwd, env })).stdout).toBe('hello\n')
  writeFileSync(join(cwd, 'ask.mjs'), program)
  const asked = await run(machine, process.execPath, ['ask.mjs'], { cwd })
  expect(asked.stdout).toMatch(/^200 hello\n[^]*\r\n\r\nhello\n$/)
})
