import { readFileSync, readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { SELF } from '../src/shared.js'

const FOLDER = new URL('./', import.meta.url)
const typed = readdirSync(FOLDER)
  .filter((name) => name.endsWith('.test-d.ts'))
  .map((name) => readFileSync(new URL(name, FOLDER), 'utf8'))
  .join('\n')

/** What an entry exports by name. */
function namesOf(entry: string): string[] {
  const text = readFileSync(new URL(`../src/${entry}`, FOLDER), 'utf8').replaceAll(/\/\*.*?\*\/|\/\/.*$/gms, '')
  const lists = [...text.matchAll(/export (?:type )?\{([^}]*)\}/g)].map(([, list]) => list ?? '')
  return lists.flatMap((list) => list.split(',').map((name) => name.trim().replace(/^type /, ''))).filter((name) => name !== '')
}

test.each(
  ['index.ts', 'testing.ts', 'express.ts', 'fastify.ts', 'hono.ts'].flatMap((entry) =>
    namesOf(entry).map((name) => [name, entry] as const),
  ),
)('%s of %s has a type test', (name) => {
  expect(new RegExp(`\\b${name}\\b`).test(typed), `name it in test/surface.test-d.ts, with what programs may rely on`).toBe(true)
})

test('copies of the SDK share what belongs to them under the major version of the package', () => {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', FOLDER), 'utf8')) as { version: string }
  expect(SELF.description).toBe(`@ztna/sdk/${version.split('.')[0]}/socket`)
})
