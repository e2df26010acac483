// A Hono app without a port, with a stream of server-sent events.
import { once } from 'node:events'
import { Hono } from 'hono'
import { streamSSE } from 'hono/streaming'
import { ZtnaConnector } from '@ztna/sdk'
import { getConnInfo, ztna } from '@ztna/sdk/hono'

const app = new Hono()
app.use(ztna())
app.get('/', (c) => c.text(`hello ${c.get('identity').name}\n`))
app.get('/admin', ztna({ groups: ['ops'] }), (c) => c.text(`${c.get('identity').name} may\n`))
app.get('/address', (c) => c.text(`${getConnInfo(c).remote.addressType}\n`))
app.get('/events', (c) =>
  streamSSE(c, async (stream) => {
    for (const data of ['one', 'two']) await stream.writeSSE({ data })
  }),
)

const connector = await new ZtnaConnector().start()
await connector.serve('web', { fetch: app.fetch })
console.log('serving web')

await once(process, 'SIGINT')
await connector.close()
