import { expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector } from '../src/index.js'
import { createTestNetwork } from '../src/testing.js'

test('two homes behind ordinary NATs become direct', async () => {
  await using net = await createTestNetwork({ nat: 'endpoint-independent', services: { web: { tcp: [80] } } })
  await using connector = await new ZtnaConnector(net.connector('c1')).start()
  await connector.serve('web', { socket: (socket) => socket.pipe(socket) })
  await using agent = await new ZtnaAgent(net.agent('alice')).start()
  const path = await net.until(agent, 'web', 'direct')
  console.log(path)
  const socket = await agent.connect('web')
  socket.end('hello')
  const got: Buffer[] = []
  for await (const chunk of socket) got.push(chunk as Buffer)
  expect(Buffer.concat(got).toString()).toBe('hello')
})
