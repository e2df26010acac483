import { readFileSync, readdirSync } from 'node:fs'
import { expect, test } from 'vitest'

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
