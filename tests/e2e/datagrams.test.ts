import { once } from 'node:events'
import { Agent, type IncomingMessage, type OutgoingMessage, type Server, createServer, request } from 'coap'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ZtnaUdpSocket } from '@ztna/sdk'
import { Memory } from '../lib/memory.ts'

let lab: Memory

beforeAll(async () => {
  lab = await Memory.create()
})
afterAll(() => lab?.[Symbol.asyncDispose]())

test('CoAP: client and server of a library talk through dgram sockets of ours, at both ends', async () => {
  const servers: Server[] = []
  const { port, to } = await lab.serve({
    udp: (flow) => {
      const server = createServer((asked: IncomingMessage, answer: OutgoingMessage) => {
        answer.end(`${flow.peer.name} asks ${asked.method} ${asked.url}: ${String(asked.payload)}`)
      })
      servers.push(server.listen(flow.asDgramSocket()))
    },
  })
  const flow = await lab.agent.datagram(to)
  const agent = new Agent({ socket: flow.asDgramSocket() })
  const ask = async (path: string, body: string): Promise<string> => {
    const asked = request({ agent, hostname: 'web.ztna.internal', port, pathname: path, method: 'POST' })
    asked.end(Buffer.from(body))
    const [answer] = (await once(asked, 'response')) as [IncomingMessage]
    return String(answer.payload)
  }
  expect(await ask('/one', 'hello')).toBe('alice asks POST /one: hello')
  const many = await Promise.all(Array.from({ length: 50 }, (_, n) => ask(`/${n}`, `${n}`)))
  expect(many).toEqual(Array.from({ length: 50 }, (_, n) => `alice asks POST /${n}: ${n}`))
  // One flow, however many requests, whose end is no error of the server: nobody listens, and it would end this process.
  expect(servers).toHaveLength(1)
  await flow.close()
  await expect.poll(() => lab.connector.status().flows.length).toBe(0)
  for (const server of servers) server.close()
})

test('a burst arrives in fewer batches than messages, whole and once each', async () => {
  const batches: number[][] = []
  const { to } = await lab.serve({
    udp: (flow) => void flow.on('messages', (batch) => batches.push(batch.map((each) => Buffer.from(each).readUInt32LE(0)))),
  })
  await using flow = await lab.agent.datagram(to)
  const burst = Array.from({ length: 500 }, (_, n) => {
    const message = Buffer.alloc(64)
    message.writeUInt32LE(n)
    return message
  })
  expect(flow.send(burst)).toBe(burst.length)
  await expect.poll(() => batches.flat().length).toBe(burst.length)
  expect(batches.flat().toSorted((a, b) => a - b)).toEqual(burst.map((_, n) => n))
  expect(batches.length).toBeLessThan(burst.length / 5)
  expect(flow.drops).toEqual({ tooLarge: 0, sendQueue: 0, underway: 0 })
})

test('what a program does not read is lost at its end, and counted there', async () => {
  let idle: ZtnaUdpSocket | undefined
  const { to } = await lab.serve({ udp: (flow) => void (idle = flow) })
  await using flow = await lab.agent.datagram(to)
  // More than the queue of 1,024 messages holds.
  for (let n = 0; n < 100; n += 1) {
    flow.send(Array.from({ length: 20 }, () => Buffer.alloc(64)))
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await expect.poll(() => idle?.drops.underway).toBeGreaterThan(500)
  expect(idle?.dropped).toBe(idle?.drops.underway)
  expect(flow.drops.tooLarge).toBe(0)
})
