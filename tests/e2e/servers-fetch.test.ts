import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { Memory } from '../lib/memory.ts'

let lab: Memory
let to: string
const asked: string[] = []

beforeAll(async () => {
  lab = await Memory.create()
  ;({ to } = await lab.serve({
    fetch: (request) => {
      asked.push(`${request.method} ${request.url}`)
      return new Response('answered')
    },
  }))
})
afterAll(() => lab?.[Symbol.asyncDispose]())
beforeEach(() => {
  asked.length = 0
  lab.warnings.length = 0
})

/** The status of the answer to a request whose connection ends with it. */
async function statusOf(start: string, ...headers: readonly string[]): Promise<number> {
  const answer = await lab.exchange(to, [start, ...headers, 'connection: close', '', ''].join('\r\n'))
  return Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1])
}

test.each([
  ['an absolute target without a host', 'GET http:///x HTTP/1.1', 'host: web'],
  ['an absolute target with a broken host', 'GET http://[/x HTTP/1.1', 'host: web'],
  ['an absolute target with a port that is none', 'GET http://web:99999/ HTTP/1.1', 'host: web'],
  ['an asterisk for another method than OPTIONS', 'GET * HTTP/1.1', 'host: web'],
  ['a Host with a space', 'GET / HTTP/1.1', 'host: a b'],
  ['a Host with a broken address', 'GET / HTTP/1.1', 'host: [::1'],
  ['a Host with a port that is none', 'GET / HTTP/1.1', 'host: web:99999'],
  ['a Host with a name and a password', 'GET / HTTP/1.1', 'host: alice:secret@web'],
  ['a Host with a path', 'GET / HTTP/1.1', 'host: web/admin'],
  ['a Host with a query', 'GET / HTTP/1.1', 'host: web?admin'],
  ['a Host with a fragment', 'GET / HTTP/1.1', 'host: web#admin'],
  ['a Host with a backslash', 'GET / HTTP/1.1', 'host: web\\admin'],
  ['an empty Host', 'GET / HTTP/1.1', 'host:'],
])('%s is answered with 400, and is neither a request nor a warning', async (_name, start, host) => {
  expect(await statusOf(start, host)).toBe(400)
  expect({ asked, warnings: lab.warnings }).toEqual({ asked: [], warnings: [] })
})

test('two Hosts are answered with 400, and are neither a request nor a warning', async () => {
  expect(await statusOf('GET / HTTP/1.1', 'host: web', 'host: other')).toBe(400)
  expect({ asked, warnings: lab.warnings }).toEqual({ asked: [], warnings: [] })
})

test.each([
  ['TRACE', 'TRACE / HTTP/1.1'],
  ['CONNECT', 'CONNECT web:80 HTTP/1.1'],
])('%s, which a Request can not have, is answered with 501, and is neither a request nor a warning', async (_name, start) => {
  expect(await statusOf(start, 'host: web')).toBe(501)
  expect({ asked, warnings: lab.warnings }).toEqual({ asked: [], warnings: [] })
})

test('a CONNECT behind a request that has no answer yet is not answered in its place', async () => {
  const { to: slow } = await lab.serve({ fetch: () => new Promise<never>(() => {}) })
  const exchanged = lab.exchange(slow, 'GET / HTTP/1.1\r\nhost: web\r\n\r\nCONNECT web:80 HTTP/1.1\r\nhost: web\r\n\r\n')
  await expect(exchanged).rejects.toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
})

test.each([
  ['a path', 'GET /a?b=c HTTP/1.1', 'host: web:80', 'GET http://web/a?b=c'],
  ['a path that looks like a host', 'GET //evil/a HTTP/1.1', 'host: web', 'GET http://web//evil/a'],
  ['a path with a fragment', 'GET /a%23b HTTP/1.1', 'host: web', 'GET http://web/a%23b'],
  ['an address for a Host', 'GET / HTTP/1.1', 'host: [fd00::1]:8080', 'GET http://[fd00::1]:8080/'],
  ['an absolute target, of which the path counts', 'GET http://other/a?b HTTP/1.1', 'host: web', 'GET http://web/a?b'],
  ['the asterisk of OPTIONS', 'OPTIONS * HTTP/1.1', 'host: web', 'OPTIONS http://web/*'],
  ['no Host in HTTP/1.0', 'GET /a HTTP/1.0', 'x: y', 'GET http://localhost/a'],
])('a fetch handler is asked for %s', async (_name, start, header, request) => {
  expect(await statusOf(start, header)).toBe(200)
  expect(asked).toEqual([request])
})
