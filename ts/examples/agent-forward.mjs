// A local port that leads to a service: node agent-forward.mjs [service] [port]   (ZTNA_NETWORK names the trust folder)
import { once } from 'node:events'
import { ZtnaAgent } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
const forward = await agent.forward({
  service: process.argv[2] ?? 'web',
  port: Number(process.argv[3] ?? 80),
  listen: { host: '127.0.0.1', port: 0 },
})
const { address, port } = forward.address()
console.log(`listening on ${address}:${port}`)

await once(process, 'SIGINT')
await agent.close()
