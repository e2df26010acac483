// An Express app without a port: whom policy permits reaches it, and its routes know who that is.
import { once } from 'node:events'
import express from 'express'
import { ZtnaConnector } from '@ztna/sdk'
import { ztna } from '@ztna/sdk/express'

const app = express()
app.use(ztna())
app.get('/', (request, response) => void response.send(`hello ${request.identity.name}\n`))
app.get('/admin', ztna({ groups: ['ops'] }), (request, response) => void response.send(`${request.identity.name} may\n`))

const connector = await new ZtnaConnector().start()
await connector.serve('web', { http: app })
console.log('serving web')

await once(process, 'SIGINT')
await connector.close()
