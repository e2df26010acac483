// HTTP by host name of the zone: node agent-fetch.mjs [url]   (ZTNA_NETWORK names the trust folder)
import { ZtnaAgent } from '@ztna/sdk'

const agent = await new ZtnaAgent().start()
try {
  const response = await agent.fetch(process.argv[2] ?? 'http://web.ztna.internal/')
  console.log(response.status, await response.text())
} catch (error) {
  // Refusals keep their reason: who said no, and by which policy.
  console.error(error.cause?.message ?? error.message)
  process.exitCode = 1
} finally {
  await agent.close()
}
