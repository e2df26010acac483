// A Fastify app without a port. It need not listen: the connector hands flows to its server.
import { once } from 'node:events'
import fastify from 'fastify'
import { ZtnaConnector } from '@ztna/sdk'
import { ztna } from '@ztna/sdk/fastify'

const app = fastify()
await app.register(ztna)
app.get('/', (request, reply) => reply.send(`hello ${request.identity.name}\n`))
await app.register(async (admin) => {
  await admin.register(ztna, { groups: ['ops'] })
  admin.get('/admin', (request, reply) => reply.send(`${request.identity.name} may\n`))
})
await app.ready()

const connector = await new ZtnaConnector().start()
await connector.serve('web', { http: app.server })
console.log('serving web')

await once(process, 'SIGINT')
await connector.close()
await app.close()
