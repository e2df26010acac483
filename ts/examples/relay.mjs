// A relay: node relay.mjs [address:port]   (ZTNA_NETWORK names the trust folder)
import { once } from 'node:events'
import { ZtnaRelay } from '@ztna/sdk'

const relay = new ZtnaRelay(process.argv[2] === undefined ? {} : { listen: [{ udp: process.argv[2] }] })
relay.on('session', ({ agent, connector }) => console.log(`${agent} meets ${connector}`))
relay.on('session-end', ({ agent, connector }, why) => console.log(`${agent} leaves ${connector}: ${why}`))

await relay.start()
console.log('listening on', relay.address())

await once(process, 'SIGINT')
await relay.close()
