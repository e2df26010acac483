import { once } from 'node:events'
import { expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector } from '../src/index.js'
import { createTestNetwork } from '../src/testing.js'

test('status names each open flow with its peer, path, age and bytes, at both ends, until it is closed', async () => {
  await using net = await createTestNetwork({ services: { echo: { tcp: [7], udp: [7] } }, nat: 'address-and-port-dependent' })
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  await connector.serve('echo', { socket: (socket) => socket.pipe(socket) })
  await connector.serve('echo', { udp: (socket) => socket.on('message', (message) => socket.send(message)) })
  const agent = await new ZtnaAgent(net.agent('alice')).start()
  expect(agent.status()).toMatchObject({ flows: [], flowsOmitted: 0 })

  const begun = Date.now()
  const socket = await agent.connect('echo:7')
  socket.write('question')
  await once(socket, 'data')
  const udp = await agent.datagram('echo:7')
  udp.send(Buffer.from('ask'))
  await once(udp, 'message')

  const shared = { service: 'echo', port: 7, peer: 'c1', open: true, path: 'relay', relay: [...net.relays.keys()][0] }
  const { flows } = agent.status()
  expect(flows.map(({ id: _id, since: _since, ...flow }) => flow)).toEqual([
    { ...shared, protocol: 'tcp', rxBytes: 8, txBytes: 8 },
    { ...shared, protocol: 'udp', rxBytes: 3, txBytes: 3 },
  ])
  // Whole seconds may be all that an age is known by.
  expect(flows[0]?.since.getTime()).toBeGreaterThanOrEqual(begun - 1_000)
  expect(flows[0]?.since.getTime()).toBeLessThanOrEqual(Date.now() + 1_000)
  expect(connector.status().flows.map(({ peer, rxBytes, txBytes }) => [peer, rxBytes, txBytes])).toEqual([
    ['alice', 8, 8],
    ['alice', 3, 3],
  ])

  socket.destroy()
  await udp.close()
  await expect.poll(() => [...agent.status().flows, ...connector.status().flows]).toEqual([])
})
