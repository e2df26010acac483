// A program's own test, on a network in memory: node test-network.mjs   (no trust folder, no root, no port)
import { createServer } from 'node:http'
import { identityOf, ZtnaAgent, ZtnaConnector } from '@ztna/sdk'
import { createTestNetwork } from '@ztna/sdk/testing'

// Two homes behind NATs, 10 ms from the Internet each, and a relay between them.
const net = await createTestNetwork({
  nat: 'endpoint-independent',
  delay: 10,
  agents: { alice: { groups: ['eng'] } },
  services: { web: { tcp: [80] } },
})
try {
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  const server = createServer((request, response) => response.end(`hello ${identityOf(request).name}`))
  await connector.serve('web', { http: server })

  const agent = await new ZtnaAgent(net.agent('alice')).start()
  const get = async () => (await agent.fetch('http://web.ztna.internal/')).text()

  const { remote, rttMs } = await net.until(agent, 'web', 'direct')
  console.log(`direct to ${remote.replace(/:\d+$/, '')}, round trip over 40 ms: ${rttMs > 40}: ${await get()}`)

  net.block('alice')
  await net.until(agent, 'web', 'relay')
  console.log(`blocked, by the relay: ${await get()}`)

  await net.setPolicy('forbid(principal, action, resource);')
  const denied = await agent.connect('web').catch((error) => error)
  console.log(`another policy: ${denied.code}`)
} finally {
  await net.close()
}
