// A UDP echo service.
import { once } from 'node:events'
import { ZtnaConnector } from '@ztna/sdk'

const connector = await new ZtnaConnector().start()
await connector.serve('echo', {
  udp(socket) {
    console.log(`flow from ${socket.peer.name}`)
    socket.on('message', (message) => socket.send(message))
  },
})
console.log('serving echo')

await once(process, 'SIGINT')
await connector.close()
