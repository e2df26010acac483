import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ZtnaConnector, ZtnaRelay } from '@ztna/sdk'
import { Loopback } from '../lib/loopback.ts'
import { Proc } from '../lib/proc.ts'

const EXAMPLES = fileURLToPath(new URL('../../ts/examples/', import.meta.url))
const GUIDES = fileURLToPath(new URL('../../docs/guides/', import.meta.url))
let lab: Loopback
let relay: ZtnaRelay

beforeAll(async () => {
  lab = await Loopback.create({
    services: [{ name: 'web', tcp: [80] }],
    policy: 'permit(principal, action, resource == Service::"web");\n',
  })
  relay = await new ZtnaRelay({ network: `${lab.dir}/relay-r1`, listen: [{ udp: lab.relayAddress }] }).start()
})
afterAll(async () => {
  await relay?.close({ drainMs: 0 })
  lab?.[Symbol.dispose]()
})

test('embed.mjs answers with what it got, says what may be asked again, and ends when it is told to', async () => {
  const connector = await new ZtnaConnector({ network: `${lab.dir}/connector-c1` }).start()
  await using closing = connector
  const served = await closing.serve('web', { fetch: () => new Response('hello\n') })
  const env = { ZTNA_NETWORK: `${lab.dir}/agent-alice` }
  await using program = new Proc(null, process.execPath, [`${EXAMPLES}embed.mjs`, '0'], { label: 'embed.mjs', env })
  const [, at] = await program.waitFor(/^listening on (.*)/)
  const get = async (path: string): Promise<[number, string]> => {
    const response = await fetch(`http://${at}${path}`)
    return [response.status, await response.text()]
  }
  expect(await get('/health')).toEqual([200, 'online\n'])
  expect(await get('/')).toEqual([200, 'hello\n'])
  await served.close({ drainMs: 0 })
  expect(await get('/')).toEqual([503, 'ERR_ZTNA_UNREACHABLE\n'])
  lab.trust.setPolicy('forbid(principal, action, resource);\n')
  await lab.trust.publish()
  await expect.poll(() => get('/'), { timeout: 10_000 }).toEqual([502, 'ERR_ZTNA_DENIED\n'])
  expect(await program.stop('SIGTERM')).toEqual({ code: 0, signal: null })
})

test.each(readdirSync(GUIDES).filter((name) => name.endsWith('.md')))(
  'every line of JavaScript in the guide %s is one of an example',
  (guide) => {
    const lines = (text: string): string[] => text.split('\n').map((line) => line.trim())
    const examples = readdirSync(EXAMPLES).filter((name) => name.endsWith('.mjs'))
    const known = new Set(examples.flatMap((name) => lines(readFileSync(`${EXAMPLES}${name}`, 'utf8'))))
    const snippets = [...readFileSync(`${GUIDES}${guide}`, 'utf8').matchAll(/```js\n(.*?)```/gs)].map(([, snippet]) => snippet ?? '')
    for (const line of snippets.flatMap(lines)) expect(known).toContain(line)
  },
)

test('every guide is named in the README, and every link of a guide leads somewhere', () => {
  const readme = readFileSync(fileURLToPath(new URL('../../README.md', import.meta.url)), 'utf8')
  for (const guide of readdirSync(GUIDES)) {
    expect(readme).toContain(`(docs/guides/${guide})`)
    const links = [...readFileSync(`${GUIDES}${guide}`, 'utf8').matchAll(/\]\((?!https?:)([^)#]+)/g)].map(([, link]) => link ?? '')
    for (const link of links) expect(() => readFileSync(`${GUIDES}${link}`), `${guide}: ${link}`).not.toThrow('ENOENT')
  }
})
