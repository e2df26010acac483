// Runs where the packages are installed: one network in memory, and over it what the SDK takes from Node's insides, which is what a
// new Node may change. Prints `ok` and ends by itself. scripts/install-test.mjs copies it to the user.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { buffer, text } from 'node:stream/consumers'
import { identityOf, ZtnaAgent, ZtnaConnector } from '@ztna/sdk'
import { createTestNetwork } from '@ztna/sdk/testing'
import { ztna as express } from '@ztna/sdk/express'
import { ztna as fastify } from '@ztna/sdk/fastify'
import { ztna as hono } from '@ztna/sdk/hono'

assert.deepEqual([typeof express, typeof fastify, typeof hono], ['function', 'function', 'function'])

const net = await createTestNetwork({
  agents: { alice: { groups: ['eng'] } },
  services: {
    web: { tcp: [80] },
    pages: { tcp: [80] },
    echo: { tcp: [7] },
    late: { tcp: [7] },
    broken: { tcp: [7] },
    packets: { udp: [7] },
  },
})
try {
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  const agent = await new ZtnaAgent(net.agent('alice')).start()

  const server = createServer((request, response) => {
    response.write(`${identityOf(request).name} `)
    request.pipe(response)
  })
  await connector.serve('web', { http: server })
  const body = 'x'.repeat(300_000)
  const answer = await agent.fetch('http://web.ztna.internal/', { method: 'POST', body })
  assert.equal(await answer.text(), `alice ${body}`)

  await connector.serve('pages', { fetch: (request) => new Response(identityOf(request).name) })
  assert.equal(await (await agent.fetch('http://pages.ztna.internal/')).text(), 'alice')

  await connector.serve('echo', { socket: (socket) => void socket.pipe(socket) })
  const sent = Buffer.alloc(2_000_000, 'echo')
  const echo = await agent.connect('echo')
  echo.end(sent)
  assert.ok((await buffer(echo)).equals(sent), 'an echo is what was sent')

  // Our end first: what comes after it still arrives.
  const answerAtEnd = (socket) => void socket.resume().once('end', () => socket.end('after the end'))
  await connector.serve('late', { allowHalfOpen: true, socket: answerAtEnd })
  const late = await agent.connect('late')
  late.end('our end')
  assert.equal(await text(late), 'after the end')

  // A reset is an error, never an end.
  await connector.serve('broken', { socket: (socket) => void socket.once('data', () => socket.resetAndDestroy()) })
  const broken = await agent.connect('broken')
  broken.on('end', () => assert.fail('a reset came as an end'))
  broken.write('go')
  const [error] = await once(broken.resume(), 'error')
  assert.equal(error.code, 'ERR_ZTNA_STREAM_RESET')

  await connector.serve('packets', { udp: (flow) => void flow.on('message', (message) => flow.send(message)) })
  const packets = await agent.datagram('packets')
  packets.send(Buffer.from('packet'))
  const [message] = await once(packets, 'message')
  assert.equal(Buffer.from(message).toString(), 'packet')
  await packets.close()
} finally {
  await net.close()
}
console.log('ok')
