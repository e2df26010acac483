import { expect, test } from 'vitest'
import { checkForward, unserved } from '../src/cli/own-network.js'
import { serviceFlagOf } from '../src/static-service.js'
import { parseForward, parseService } from '../src/cli/grammar.js'

const NETWORK = {
  trustDomain: 'example.test',
  zone: 'ztna.internal',
  relays: [],
  services: [
    { name: 'web', connectors: ['c1'], tcp: [80, '8000-8010'] },
    { name: 'dns', connectors: ['c1', 'c2'], udp: [53] },
  ],
}

test.each([
  ['tcp:127.0.0.1:0=web:8005', undefined],
  ['udp:127.0.0.1:0=dns', undefined],
  ['tcp:127.0.0.1:0=web:8011', '--forward: service `web` has no tcp port 8011; it has: 80, 8000-8010'],
  ['tcp:127.0.0.1:0=web', '--forward: name the port, one of the tcp ports of service `web`: 80, 8000-8010'],
  ['tcp:127.0.0.1:0=dns:53', '--forward: service `dns` has no tcp port 53; it has: none'],
  ['tcp:127.0.0.1:0=wbe:80', '--forward: no service `wbe` in this network; known: web, dns'],
])('a forward %s is checked against the network', (text, why) => {
  const check = (): void => parseForward(text).forEach((forward) => checkForward(NETWORK, forward, '--forward'))
  if (why === undefined) expect(check).not.toThrow()
  else expect(check).toThrow(why)
})

test.each([
  ['c1', [], 'this connector serves nothing: the network gives it web, dns; name each with --service, such as web=tcp:80:127.0.0.1:80'],
  ['c1', ['dns=udp:53:127.0.0.1:53'], 'this connector does not serve all: the network gives it web; name each with --service'],
  ['c2', ['web=tcp:80:127.0.0.1:80'], 'the network gives it dns; name each with --service, such as dns=udp:53:127.0.0.1:53'],
  ['c2', ['dns=udp:53:127.0.0.1:53'], undefined],
  ['c3', [], 'this connector serves nothing, and the network gives it nothing: add it to `connectors` of a [[service]]'],
])('connector %s serving %j is told what it does not serve', (connector, services, line) => {
  const said = unserved(
    NETWORK,
    connector,
    services.map((text) => parseService(text)),
  )
  if (line === undefined) expect(said).toBeUndefined()
  else expect(said).toContain(line)
})

test.each([
  [{ tcp: [5432] }, 'db=tcp:5432:127.0.0.1:5432'],
  [{ tcp: ['8000-8010', 80] }, 'db=tcp:8000-8010:127.0.0.1:8000'],
  [{ udp: [53] }, 'db=udp:53:127.0.0.1:53'],
])('the value of --service for %j has its port, and is accepted', (ports, flag) => {
  expect(serviceFlagOf({ name: 'db', connectors: [], ...ports })).toBe(flag)
  expect(parseService(flag).service).toBe('db')
})
