// A TCP echo service whose flows are ordinary sockets.
import { once } from 'node:events'
import { ZtnaConnector } from '@ztna/sdk'

const connector = await new ZtnaConnector().start()
await connector.serve('echo', {
  socket(socket) {
    console.log(`flow from ${socket.peer.name}`)
    socket.on('error', (error) => console.log(error.message))
    socket.pipe(socket)
  },
})
console.log('serving echo')

await once(process, 'SIGINT')
await connector.close()
