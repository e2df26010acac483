// Relay, connector and agent in one process: node all-in-one.mjs FOLDER_OF_TRUST_FOLDERS RELAY_ADDRESS
import { once } from 'node:events'
import { identityOf, ZtnaAgent, ZtnaConnector, ZtnaRelay } from '@ztna/sdk'

const [, , folders, udp] = process.argv
const relay = new ZtnaRelay({ network: `${folders}/relay-r1`, listen: [{ udp }] })
const connector = new ZtnaConnector({ network: `${folders}/connector-c1` })
const agent = new ZtnaAgent({ network: `${folders}/agent-alice` })
await relay.start()
await Promise.all([connector.start(), agent.start()])

const served = await connector.serve('web', {
  fetch: (request) => new Response(`hello ${identityOf(request).name}\n`),
})
const page = await agent.fetch('http://web.ztna.internal/')
console.log(page.status, (await page.text()).trim())

// What nobody serves is told from what policy denies.
await served.close()
const missing = await agent.connect('web:80').catch((error) => error)
console.log(missing.code, missing.details.reason, missing.retryable)
const [[denied]] = await Promise.all([once(agent, 'denied'), agent.connect('locked:80').catch(() => {})])
console.log(denied.code, 'by', denied.by)

await agent.close()
await connector.close()
await relay.close()
