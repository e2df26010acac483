import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { complaintsAbout, snippetsOf } from './snippets.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const documents = ['README.md', 'docs', 'docs/guides'].flatMap((at) =>
  at.endsWith('.md')
    ? [at]
    : readdirSync(ROOT + at)
        .filter((name) => name.endsWith('.md'))
        .map((name) => `${at}/${name}`),
)

test('every TypeScript snippet of the README and the guides compiles against the built types', () => {
  const snippets = documents.flatMap((name) => snippetsOf(ROOT + name)).map(({ at, code }) => ({ at: at.slice(ROOT.length), code }))
  expect(snippets.length).toBeGreaterThan(2)
  expect(complaintsAbout(snippets)).toEqual([])
})

test('no JavaScript of the README and the documents goes unread by the compiler', () => {
  // That of a guide is from an example that runs: examples-guides.test.ts.
  const others = documents.filter((name) => !name.startsWith('docs/guides/'))
  expect(others.filter((name) => /^```(js|javascript|mjs)\b/m.test(readFileSync(ROOT + name, 'utf8')))).toEqual([])
})

test('a snippet that has drifted from the types is told by document and line', () => {
  const drifted = { at: 'docs/guides/none.md:7', code: "import { ZtnaAgent } from '@ztna/sdk'\nnew ZtnaAgent({ netwrok: 'x' })\n" }
  expect(complaintsAbout([drifted])).toEqual([expect.stringMatching(/^docs\/guides\/none\.md:7, its line 2: .*netwrok/)])
})
