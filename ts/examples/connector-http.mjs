// A web service without a port: only who the policy permits ever reaches it.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { ZtnaConnector, identityOf } from '@ztna/sdk'

const server = createServer((request, response) => {
  const { name, groups } = identityOf(request)
  response.end(`hello ${name} of ${groups.join(', ') || 'no group'}\n`)
})

const connector = await new ZtnaConnector().start()
await connector.serve('web', { http: server })
console.log('serving web')

await once(process, 'SIGINT')
await connector.close()
