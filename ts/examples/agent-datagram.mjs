// One UDP question and its answer: node agent-datagram.mjs [service:port] [text]   (ZTNA_NETWORK names the trust folder)
import { ZtnaAgent } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
const socket = await agent.datagram(process.argv[2] ?? 'echo:7')
socket.send(Buffer.from(process.argv[3] ?? 'hello'))

for await (const message of socket) {
  console.log(Buffer.from(message).toString())
  break
}
await agent.close()
