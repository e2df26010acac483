// A service that asks another one through the tunnel: node embed.mjs [port]   (ZTNA_NETWORK names the trust folder)
import { once } from 'node:events'
import { createServer } from 'node:http'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const agent = new ZtnaAgent({ logger: console, logLevel: 'warn' })
// The role has died, which nothing but a defect makes it do: have the process started anew.
agent.on('error', () => (process.exitCode = 1))
await agent.start({ timeoutMs: 30_000 })

async function answer(request, response) {
  if (request.url === '/health') {
    response.statusCode = agent.state === 'online' ? 200 : 503
    return response.end(`${agent.state}\n`)
  }
  try {
    const upstream = await agent.fetch('http://web.ztna.internal/', { signal: AbortSignal.timeout(5_000) })
    response.end(await upstream.text())
  } catch (error) {
    const ours = ztnaErrorOf(error)
    // 503: may work when it is asked again. 502: it won't until somebody mends something.
    response.statusCode = ours?.retryable ? 503 : 502
    response.end(`${ours?.code ?? error.name}\n`)
  }
}

const server = createServer((request, response) => void answer(request, response))
server.listen(Number(process.argv[2] ?? 8080), '127.0.0.1')
await once(server, 'listening')
console.log(`listening on 127.0.0.1:${server.address().port}`)

await once(process, 'SIGTERM')
// First those who ask us, then those whom we ask.
server.close()
await once(server, 'close')
await agent.close({ drainMs: 5_000 })
