// A raw TCP stream to a service: node agent-connect.mjs [service:port]   (ZTNA_NETWORK names the trust folder)
import { ZtnaAgent } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
const socket = await agent.connect(process.argv[2] ?? 'echo:7')
console.log(`connected to ${socket.peer.id}, path ${socket.path.kind}`)

socket.end('hello through the tunnel\n')
for await (const chunk of socket) process.stdout.write(chunk)

await agent.close()
