// axios: node axios.mjs [url]   (ZTNA_NETWORK names the trust folder)
import { create } from 'axios'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
// Both agents: a redirect from http: to https: would leave the tunnel for want of the other. No proxy: $HTTP_PROXY is none of the zone's.
const client = create({ httpAgent: agent.httpAgent(), httpsAgent: agent.httpsAgent(), proxy: false })
try {
  const { status, data } = await client.get(process.argv[2] ?? 'http://web.ztna.internal/')
  console.log(status, data)
} catch (error) {
  // `code` is ECONNREFUSED or the like where trying again may help, ERR_ZTNA_DENIED where it won't.
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await agent.close()
}
