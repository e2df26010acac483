// got: node got.mjs [url]   (ZTNA_NETWORK names the trust folder)
import { got } from 'got'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
const client = got.extend({
  // Both: a redirect from http: to https: would leave the tunnel for want of the other. `http2` stays off: got dials for it by itself.
  agent: { http: agent.httpAgent(), https: agent.httpsAgent() },
  // A service that refuses is asked again, as over TCP. A denial never is.
  retry: { limit: 2, backoffLimit: 500 },
  hooks: { beforeRetry: [(error, count) => console.log(`${error.code}, attempt ${count + 1}`)] },
})
try {
  const { statusCode, body } = await client(process.argv[2] ?? 'http://web.ztna.internal/')
  console.log(statusCode, body)
} catch (error) {
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await agent.close()
}
