import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { SETTINGS } from '../src/cli/options.js'

const text = readFileSync(new URL('../../../docs/configuration.md', import.meta.url), 'utf8')
const section = (title: string): string => text.split(`## ${title}\n`)[1]?.split('\n## ')[0] ?? ''
const rowOf = (title: string, key: string): string | undefined =>
  section(title)
    .split('\n')
    .find((line) => line.startsWith(`| \`${key}\` |`))

const TITLES = { agent: 'Agent', connector: 'Connector', relay: 'Relay' } as const

test.each(SETTINGS.map((setting) => [setting.key, setting] as const))('docs/configuration.md has %s with its default', (key, setting) => {
  const titles = setting.roles.length === 3 ? ['Every role'] : setting.roles.map((role) => TITLES[role])
  for (const title of titles) {
    const row = rowOf(title, key)
    const fallback = setting.fallback === undefined ? /\(default: (\d+)\)/.exec(setting.help)?.[1] : String(setting.fallback)
    expect(row, title).toBeDefined()
    if (fallback !== undefined) expect(row?.split('|').at(-2), title).toContain(fallback)
    if (setting.least !== undefined) expect(text).toContain(`from ${setting.least}`)
  }
})

test('docs/configuration.md has no setting that there is not', () => {
  const keys = [...(text.split('## Why')[0]?.matchAll(/^\| `(\w+)` \|/gm) ?? [])].map(([, key]) => key)
  expect(new Set(keys)).toEqual(new Set(SETTINGS.map(({ key }) => key)))
})
