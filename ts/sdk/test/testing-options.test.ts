import { expect, test } from 'vitest'
import { ZtnaError } from '../src/index.js'
import { type TestNetworkOptions, createTestNetwork } from '../src/testing.js'

/** What JavaScript lets through and types don't. */
const wrong = (value: unknown): never => value as never

test.each<[string, TestNetworkOptions, string]>([
  ['null', wrong(null), 'options of createTestNetwork(): null is not accepted'],
  ['a misspelt option', wrong({ lossy: 1 }), 'unknown "lossy"; accepted: seed, relays'],
  ['a NAT that there is not', { nat: wrong('symmetric') }, 'nat of options: "symmetric" is not accepted; accepted: none, firewall'],
  ['a mapping that there is not', { nat: { mapping: wrong('any') } }, 'mapping of nat of options: "any"'],
  ['a loss in words', { loss: wrong('5%') }, 'loss of options: "5%" is not accepted; accepted: a number'],
  ['a loss of all and more', { loss: 5 }, 'alice: loss: "5" is not accepted, expected a share from 0 to 1, such as 0.02'],
  ['a negative delay', { agents: { bob: { delay: -1 } } }, 'bob: delay: "-1" is not accepted, expected milliseconds from 0 to 60000'],
  ['a delay that is no number', { relays: { r1: { delay: Number.NaN } } }, 'delay of relays.r1: NaN'],
  ['a rate of 0', { rate: 0 }, 'rate of options: 0 is not accepted; accepted: a number over 0'],
  [
    'a home that there is not',
    { agents: { alice: { home: 'office' } } },
    'home of alice: "office" is not accepted; accepted: a name of `homes`',
  ],
  [
    'a node that contradicts its home',
    { homes: { flat: {} }, agents: { bob: { home: 'flat', loss: 0 } } },
    'bob is in home "flat", which decides on loss',
  ],
  ['one name for two', { agents: { c1: {} } }, '"c1" is a name of both agents and connectors'],
  ['a name that is none', { agents: { 'A b': {} } }, 'agent name `A b`'],
  ['no relay', { relays: {} }, 'relays: one at least is needed'],
  ['a service of nobody', { services: { web: { connectors: ['c9'] } } }, 'connectors of service web: "c9" is not accepted; accepted: c1'],
  ['a policy that is none', { policy: 'permit(' }, 'policy.cedar:1'],
  ['a negative seed', { seed: -1 }, 'seed: -1 is not accepted; accepted: a whole number from 0'],
])('%s is refused with what is accepted', async (_, options, message) => {
  const error = await createTestNetwork(options).then(
    (net) => net.close(),
    (refusal: unknown) => refusal,
  )
  expect(error).toBeInstanceOf(ZtnaError)
  expect(error).toMatchObject({ code: 'ERR_ZTNA_CONFIG', message: expect.stringContaining(message) as string })
})

test('changes that are not accepted are refused, and the network goes on', async () => {
  await using net = await createTestNetwork({ homes: { office: {} } })
  const before = net.addresses('alice')
  for (const [call, message] of [
    [() => net.agent('bob'), 'name of the agent: "bob" is not accepted; accepted: alice'],
    [() => net.agent('c1'), 'name of the agent: "c1" is not accepted; accepted: alice'],
    [() => net.setNat('bob', 'none'), 'no node or home is called "bob"; known: alice, c1, office'],
    [() => net.setNat('alice', wrong('x')), 'nat: "x" is not accepted'],
    [() => net.setLine({ loss: 2 }), 'loss: "2" is not accepted'],
    [() => net.setLine(wrong({ speed: 2 })), 'line: unknown "speed"'],
    [() => net.block('alice', wrong('tcp')), 'what to block: "tcp" is not accepted; accepted: direct, udp'],
    [() => net.move('office'), 'node: "office" is not accepted; accepted: alice, c1'],
    [() => net.move('alice', 'attic'), 'no home is called "attic"; known: alice, c1, office'],
    [() => net.move('alice', { delay: 1e6 }), 'delay: "1000000" is not accepted'],
    [() => net.addresses('x'), 'no node or relay is called "x"'],
  ] as const) {
    expect(call).toThrow(expect.objectContaining({ code: 'ERR_ZTNA_CONFIG', message: expect.stringContaining(message) as string }) as Error)
  }
  expect(net.addresses('alice')).toEqual(before)
  net.move('alice')
  expect(net.addresses('alice')).not.toEqual(before)
})
