import { expect, test } from 'vitest'
import { serveMetrics } from '../src/cli/metrics.js'

test('an IPv6 address that can not be used is named as it is written', async () => {
  const role = { state: 'online', metrics: () => '# EOF\n' } as const
  // An address of the documentation, which no machine has.
  await expect(serveMetrics(role, { host: '2001:db8::1', port: 9100 })).rejects.toThrow('metrics [2001:db8::1]:9100: ')
})
