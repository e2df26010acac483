// A SOCKS5 proxy into the zone: curl --socks5-hostname 127.0.0.1:1080 http://web.ztna.internal/
import { once } from 'node:events'
import { ZtnaAgent } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
const proxy = await agent.forward({ socks5: { host: '127.0.0.1', port: Number(process.argv[2] ?? 1080) } })
console.log(`SOCKS5 on port ${proxy.address().port}`)

await once(process, 'SIGINT')
await agent.close()
