import { expect, test } from 'vitest'
import { Lab } from './netns.ts'
import { background, tcpClient, tcpServer, udpClient, udpEcho } from './peers.ts'

// What the tunnel's tests ask of a path, asked of loopback: the measure must be right before it measures.
test('the TCP peers do what they say over a plain path', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  for (const [i, mode] of ['echo', 'sum', 'reset', 'silent', 'first', 'flood', 'watch'].entries()) await tcpServer(netns, mode, at(i + 1))
  expect(await tcpClient(netns, 'echo', at(1), 300)).toEqual({ same: 300, again: 300, open: 300 })
  expect(await tcpClient(netns, 'idle', at(1), 100)).toEqual({ before: true, after: true })
  const sum = await tcpClient(netns, 'sum', at(2), 1_000_000)
  expect(sum['answer']).toBe(sum['sent'])
  expect(await tcpClient(netns, 'events', at(3))).toEqual({ events: ['ECONNRESET'], closed: true })
  const flood = background(netns, 'tcp-client.mjs', ['flood', at(4), '500'])
  expect(Number((await flood.waitFor(/"taken":(\d+)/))[1])).toBeGreaterThan(65_536)
  flood.endInput()
  expect(await tcpClient(netns, 'after', at(5), 100_000)).toEqual({ heard: 'bye', sent: 100_000 })
  expect(await tcpClient(netns, 'stall', at(6), 500)).toEqual({ stalled: 500 })
  expect(await tcpClient(netns, 'reset', at(7))).toEqual({ reset: true })
})

test('the UDP peers count what comes back', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  await udpEcho(netns, '127.0.0.1:7')
  expect(await udpClient(netns, '127.0.0.1:7', { count: 100, idleMs: 50 })).toEqual({ sent: 200, received: 200, wrong: 0, first: 100 })
  expect(await udpClient(netns, '127.0.0.1:7', { payloads: ['', '00', 'ff'] })).toMatchObject({ sent: 3, received: 3, wrong: 0 })
})

function at(port: number): string {
  return `127.0.0.1:${port}`
}
