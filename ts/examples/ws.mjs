// WebSocket by ws: node ws.mjs [url] [text]   (ZTNA_NETWORK names the trust folder)
import { once } from 'node:events'
import { WebSocket } from 'ws'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
try {
  // For wss: it is agent.httpsAgent(), with { ca } where the service has a CA of its own.
  const socket = new WebSocket(process.argv[2] ?? 'ws://web.ztna.internal/', { agent: agent.httpAgent() })
  await once(socket, 'open')
  socket.send(process.argv[3] ?? 'hello')
  const [message] = await once(socket, 'message')
  console.log(String(message))
  socket.close()
  await once(socket, 'close')
} catch (error) {
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await agent.close()
}
