// A server of HTTP/2 without TLS of its own: the tunnel has it. Closing sends GOAWAY and lets streams finish.
import { once } from 'node:events'
import { createServer } from 'node:http2'
import { identityOf, ZtnaConnector } from '@ztna/sdk'

const server = createServer((request, response) => {
  response.end(`hello ${identityOf(request).name} by HTTP/${request.httpVersion}\n`)
})

const connector = await new ZtnaConnector().start()
const served = await connector.serve('web', { http: server })
console.log('serving web')

await once(process, 'SIGINT')
await served.close({ drainMs: 5_000 })
console.log(`closed with ${served.connections} connections`)
await connector.close()
