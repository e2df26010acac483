// gRPC by @grpc/grpc-js, which takes no socket of ours but dials unix sockets: node grpc.mjs [service:port] [text]   (ZTNA_NETWORK names the trust folder)
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client, credentials } from '@grpc/grpc-js'
import { ZtnaAgent } from '@ztna/sdk'

const [service, port] = (process.argv[2] ?? 'greeter:50051').split(':')
// In a folder that nobody else may enter: who can open the socket speaks as this agent.
const folder = await mkdtemp(join(tmpdir(), 'ztna-grpc-'))
const agent = await new ZtnaAgent().start()
try {
  const unix = join(folder, 'socket')
  await agent.forward({ service, port: Number(port), listen: { unix } })
  const client = new Client(`unix:${unix}`, credentials.createInsecure())
  // A generated client takes the same address and credentials; this one sends bytes as they are.
  const asIs = (bytes) => bytes
  const answer = await new Promise((resolve, reject) =>
    client.makeUnaryRequest('/example.Greeter/Greet', asIs, asIs, Buffer.from(process.argv[3] ?? 'tunnel'), (error, bytes) =>
      error ? reject(error) : resolve(bytes),
    ),
  )
  console.log(String(answer))
  client.close()
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  await agent.close()
  await rm(folder, { recursive: true, force: true })
}
