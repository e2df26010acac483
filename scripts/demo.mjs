// Relay, connector and agent as three processes on loopback, with a fresh trust folder, and a web service only the tunnel leads to.
//
//   npm run demo               stays up until Ctrl-C, for your own curl
//   npm run demo -- --once     the same checks, then exit 0
import { randomUUID } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ensure } from './ensure.mjs'
import { Failure, main } from './lib/process.mjs'
import { Role, ztna } from './lib/role.mjs'

const trustDomain = 'demo.test'
const alice = `spiffe://${trustDomain}/agent/alice`

const services = `
[[service]]
name = "web"
connectors = ["c1"]
tcp = [80]

[[service]]
name = "payroll"
connectors = ["c1"]
tcp = [80]
`

const policy = `permit(principal in Group::"staff", action == Action::"connect", resource == Service::"web")
when { context.protocol == "tcp" && context.port == 80 };
`

/** What has to go when the demo ends, last first. */
const cleanups = []

async function demo(stayUp) {
  const folder = await mkdtemp(join(tmpdir(), 'ztna-demo-'))
  cleanups.push(() => rm(folder, { recursive: true, force: true }))
  const web = await startService('the private web service')
  const payroll = await startService('payroll, which nobody may reach')

  const relayPort = await freeUdpPort()
  const network = await makeTrust(folder, relayPort)
  step(`trust folder ${folder}: one CA, a relay, a connector, the agent alice; policy: staff may reach web, nobody payroll`)

  const common = (name) => ['--network', network[name], '--control', join(folder, `${name}.sock`)]
  const relay = start('relay', [...common('relay'), '--listen', `127.0.0.1:${relayPort}`])
  const targets = [`web=tcp:80:127.0.0.1:${web.port}`, `payroll=tcp:80:127.0.0.1:${payroll.port}`]
  const connector = start('connector', [...common('connector'), ...targets.flatMap((target) => ['--service', target])])
  const locals = ['tcp:127.0.0.1:0=web:80', 'tcp:127.0.0.1:0=payroll:80']
  const agent = start('agent', [...common('agent'), ...locals.flatMap((local) => ['--forward', local])])
  await relay.online()
  await connector.online()
  const { forwards } = await agent.online()
  const [webUrl, payrollUrl] = ['web', 'payroll'].map((service) => urlOf(forwards, service))
  step(`relay, connector and agent are online (three processes; the relay at 127.0.0.1:${relayPort}/udp)`)

  await checkAllowed(webUrl, web)
  step(`GET ${webUrl} → 200: "${web.text}"`)
  await showPath(join(folder, 'agent.sock'))
  await showIdentity(connector)
  await checkDenied(agent, payrollUrl, payroll)

  process.stdout.write(`demo ready ${webUrl}\n`)
  if (!stayUp) return
  step(`try: curl ${webUrl}    and: curl ${payrollUrl} (denied). Ctrl-C ends the demo.`)
  await Promise.race([interrupted, ...[relay, connector, agent].map(unexpectedEnd)])
}

/** A fresh CA, what an operator would edit, and one folder for each node. */
async function makeTrust(folder, relayPort) {
  const trust = join(folder, 'trust')
  const network = { relay: join(folder, 'relay'), connector: join(folder, 'connector'), agent: join(folder, 'agent') }
  await ztna('pki', 'init', trust, '--trust-domain', trustDomain)
  await appendFile(join(trust, 'network.toml'), services)
  await writeFile(join(trust, 'policy.cedar'), policy)
  await ztna('pki', 'issue', trust, 'relay', 'r1', '--out', network.relay, '--url', `https://127.0.0.1:${relayPort}`)
  await ztna('pki', 'issue', trust, 'connector', 'c1', '--out', network.connector)
  await ztna('pki', 'issue', trust, 'agent', 'alice', '--group', 'staff', '--out', network.agent)
  // Each node was issued before the next one existed; now all hear of all.
  await ztna('pki', 'publish', trust, network.relay, network.connector, network.agent)
  return network
}

async function checkAllowed(url, service) {
  const response = await fetch(url, { signal: AbortSignal.timeout(10_000) }).catch((error) => {
    throw new Failure(`GET ${url} failed: ${reasonOf(error)}`)
  })
  const body = await response.text()
  if (response.status !== 200 || body !== `${service.text}\n`) {
    throw new Failure(`GET ${url}: expected 200 and "${service.text}", got ${response.status} and ${JSON.stringify(body)}`)
  }
  if (service.requests !== 1) throw new Failure(`the service saw ${service.requests} requests, not 1`)
}

async function showPath(socket) {
  const { rttMs, path } = JSON.parse(await ztna('ping', 'web', '--json', '--control', socket))
  // On one machine the two may have found each other past the relay by now.
  if (path.kind !== 'relay' && path.kind !== 'direct') throw new Failure(`expected a path, got ${JSON.stringify(path)}`)
  step(`path: ${path.kind} (${path.relay ?? path.remote}), round trip ${rttMs.toFixed(2)} ms, end to end to the connector`)
}

/** Who the service's side says is calling: taken from the certificate of the inner connection. */
async function showIdentity(connector) {
  const { peer } = await connector.event('flow event', ({ event, service }) => event === 'flow' && service === 'web')
  if (peer.id !== alice) throw new Failure(`the connector saw ${peer.id}, expected ${alice}`)
  step(`identity at the connector: ${peer.id}, groups ${peer.groups.join(', ')}`)
}

async function checkDenied(agent, url, service) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(10_000) }).then(
    (response) => `status ${response.status}`,
    () => null,
  )
  if (answer !== null) throw new Failure(`GET ${url} must be denied, and was answered with ${answer}`)
  const { error } = await agent.event('denied event', ({ event }) => event === 'denied')
  if (error.code !== 'ERR_ZTNA_DENIED') throw new Failure(`expected ERR_ZTNA_DENIED, got ${JSON.stringify(error)}`)
  if (service.requests !== 0) throw new Failure(`payroll saw ${service.requests} requests, though policy denies them`)
  step(`GET ${url} → ${error.code}: ${error.message}`)
}

function start(kind, args) {
  if (isInterrupted) throw new Failure('interrupted')
  const role = new Role(kind, args)
  cleanups.push(() => role.stop())
  interrupts.push(() => role.kill('SIGKILL'))
  return role
}

async function startService(what) {
  const service = { text: `hello from ${what} (${randomUUID()})`, requests: 0, port: 0 }
  const server = createServer((_request, response) => {
    service.requests += 1
    response.setHeader('connection', 'close')
    response.end(`${service.text}\n`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  service.port = server.address().port
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return service
}

/** The relay's URL is in everybody's network.toml before the relay runs, so its port has to be known by then. */
async function freeUdpPort() {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  await once(socket, 'close')
  return port
}

function urlOf(forwards, service) {
  const address = forwards?.find((forward) => forward.service === service || forward.service === `${service}:80`)?.address
  if (address === undefined) throw new Failure(`the agent's online event names no forward for ${service}: ${JSON.stringify(forwards)}`)
  return typeof address === 'string' ? `http://${address}/` : `http://${address.address}:${address.port}/`
}

async function unexpectedEnd(role) {
  throw new Failure(`${role.kind}: ${await role.ended}, though nobody asked it to`)
}

function reasonOf(error) {
  return error.cause instanceof Error ? error.cause.message : error.message
}

function step(text) {
  process.stderr.write(`• ${text}\n`)
}

// The first Ctrl-C ends the demo in order; a second one does not wait for the drain.
const interrupts = []
let isInterrupted = false
let interrupt
const interrupted = new Promise((resolve) => {
  interrupt = resolve
})
function onSignal() {
  if (isInterrupted) for (const end of interrupts) end()
  isInterrupted = true
  interrupt()
}

await main(async () => {
  const { once: isOnce } = parseArgs({ options: { once: { type: 'boolean', default: false } } }).values
  await ensure()
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, onSignal)
  const stopped = interrupted.then(() => (isOnce ? Promise.reject(new Failure('interrupted')) : undefined))
  try {
    await Promise.race([demo(!isOnce), stopped])
  } finally {
    for (const cleanup of cleanups.toReversed()) await cleanup()
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.removeListener(name, onSignal)
  }
})
