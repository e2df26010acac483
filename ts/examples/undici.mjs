// undici, with TLS and HTTP/2 of the service itself: node undici.mjs [url] [ca.pem]   (ZTNA_NETWORK names the trust folder)
import { readFileSync } from 'node:fs'
import { RetryAgent, request } from 'undici'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const [url = 'http://web.ztna.internal/', caFile] = process.argv.slice(2)
const agent = await new ZtnaAgent().start()
// One for all requests: it keeps connections. `tls` is for services with a CA of their own.
const tunnel = agent.dispatcher({ allowH2: true, ...(caFile ? { tls: { ca: readFileSync(caFile) } } : {}) })
// It retries what TCP would have it retry, and no denial. Node's own fetch takes either as its `dispatcher`.
const dispatcher = new RetryAgent(tunnel, { maxRetries: 2, minTimeout: 100 })
try {
  const { statusCode, body } = await request(url, { dispatcher })
  console.log(statusCode, await body.text())
} catch (error) {
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await agent.close()
}
