// Redis by ioredis: node ioredis.mjs [service:port]   (ZTNA_NETWORK names the trust folder)
import { AbstractConnector, Redis } from 'ioredis'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const target = process.argv[2] ?? 'cache:6379'
const agent = await new ZtnaAgent().start()

class Tunnel extends AbstractConnector {
  constructor() {
    super(2_000) // milliseconds until a disconnect is forced, as ioredis has it
  }
  // Not `await agent.connect()`: when that rejects ioredis gives up, where a socket that fails has it try again.
  async connect() {
    return (this.stream = agent.createConnection(target))
  }
}

const redis = new Redis({ Connector: Tunnel, maxRetriesPerRequest: 2 })
redis.on('error', (error) => console.error(error.code, ztnaErrorOf(error)?.message ?? error.message))
try {
  await redis.set('greeting', 'hello from the cache')
  console.log(await redis.get('greeting'))
  await redis.quit()
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
  redis.disconnect()
} finally {
  await agent.close()
}
