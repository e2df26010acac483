import { expect, test } from 'vitest'
import { describeStatus } from '../src/cli/human.js'
import { unpainted } from '../src/cli/style.js'
import { ZtnaAgent, ZtnaConnector, ZtnaRelay } from '../src/index.js'
import { setNative } from '../src/native.js'
import { createTestNetwork } from '../src/testing.js'

setNative(undefined)

test('the status of a node has an outage for as long as no relay serves it, with why and what to do', async () => {
  await using net = await createTestNetwork({ services: { web: { tcp: [80] } } })
  const nodes = [await new ZtnaAgent(net.agent('alice')).start(), await new ZtnaConnector(net.connector('c1')).start()]
  for (const node of nodes) expect(node.status()).not.toHaveProperty('outage')
  await net.relays.get('r1')?.close({ drainMs: 0 })
  for (const node of nodes) {
    await expect
      .poll(() => node.status().outage, { timeout: 10_000 })
      .toMatchObject({
        code: 'ERR_ZTNA_UNREACHABLE',
        message: expect.stringMatching(/^no relay answers: relay r1 .*; .+/) as string,
        retryable: true,
        details: { tried: [expect.stringContaining('relay r1')] },
      })
  }
  await using relay = await new ZtnaRelay(net.relay('r1')).start()
  for (const node of nodes) await expect.poll(() => node.status().outage, { timeout: 10_000 }).toBeUndefined()
  expect(relay.state).toBe('online')
})

test('a person reads of an outage what it is, once', () => {
  const outage = { code: 'ERR_ZTNA_UNREACHABLE', message: 'no relay answers', retryable: true, details: { tried: ['relay r1'] } }
  expect(describeStatus({ name: 'alice', outage, version: 2, flows: [], flowsOmitted: 0 }, unpainted)).toBe(
    'name     alice\noutage   no relay answers\nversion  2',
  )
})
