/** Whether a relay can be reached by UDP, and if not, what stands in the way: one STUN question (RFC 8489). */
import { type Socket, createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { hostPort } from '../host-port.js'
import type { RelayEntry } from '../network-source.js'
import { type Finding, fail, ok, warn } from './check.js'

/** When the question is put again, milliseconds after the first time: as RFC 8489 §6.2.1 does, in less time. */
const AGAIN_MS = [250, 750, 1_500] as const
/** How long an answer is waited for, milliseconds. */
export const PROBE_MS = 2_500

/** A Binding request, filled up with PADDING to the length of the longest answer: a relay answers with no more than it was sent. */
const REQUEST = 76
const [BINDING_REQUEST, BINDING_SUCCESS, MAGIC, PADDING, FINGERPRINT] = [0x0001, 0x0101, 0x2112_a442, 0x0026, 0x8028]

/** How long an answer of this machine itself is waited for, milliseconds. */
const HERE_MS = 1_000
/** Addresses of this machine that are asked. A host of containers has hundreds, and its relay listens on the first or on all. */
const OWN_ADDRESSES = 16

type Answer =
  | { readonly kind: 'answered'; readonly ms: number }
  | { readonly kind: 'silent' }
  | { readonly kind: 'refused' }
  | { readonly kind: 'no-route'; readonly why: string }

/** How a relay is asked. */
export interface Probe {
  /** How long an answer is waited for, milliseconds. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
  /** Whether it is the relay's own folder, and so its own machine, that is looked at. Default false. */
  readonly own?: boolean
  /** Addresses of this machine, where a silent relay is looked for. Default: those of the loopback and of its interfaces. */
  readonly here?: readonly string[]
}

/** `relay NAME`: each of its URLs is asked, and one that answers will do. */
export async function checkRelay(relay: RelayEntry, probe: Probe): Promise<Finding[]> {
  const check = `relay ${relay.name}`
  const asked = await Promise.all(relay.urls.map((url) => checkUrl(check, url, probe)))
  const good = asked.filter(({ status }) => status === 'ok')
  const [first] = asked
  if (first === undefined) return [fail(check, 'has no URL', 'give it one in network.toml of the trust folder, and publish')]
  if (good.length === 0) return [first]
  if (good.length === asked.length) return [ok(check, good.map(({ detail }) => detail).join('; '))]
  const bad = asked.find(({ status }) => status !== 'ok') ?? first
  return [warn(check, asked.map(({ detail }) => detail).join('; '), bad.remedy ?? '')]
}

async function checkUrl(check: string, url: string, probe: Probe): Promise<Finding> {
  const { timeoutMs, signal } = probe
  const [host, port] = endpointOf(url) ?? []
  if (host === undefined || port === undefined) {
    return fail(check, `${url} is not https://HOST:PORT`, 'mend it in network.toml of the trust folder, and publish')
  }
  let addresses: readonly { address: string; family: number }[]
  try {
    addresses = isIP(host) === 0 ? await resolve(host, timeoutMs) : [{ address: host, family: isIP(host) }]
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    return fail(
      check,
      `its name ${host} does not resolve (${code})`,
      `mend the URL in network.toml, or this machine's resolver: \`getent hosts ${host}\``,
    )
  }
  const answers = await Promise.all(addresses.map(({ address, family }) => ask(address, family, port, timeoutMs, signal)))
  const at = `${hostPort(host, port)}/udp`
  const answered = answers.find((answer) => answer.kind === 'answered')
  if (answered !== undefined) return ok(check, `${at} answers in ${answered.ms.toFixed(1)} ms`)
  // What is heard says more than silence, and a family without a route says least where there is another one.
  const told = (['refused', 'silent', 'no-route'] as const)
    .map((kind) => answers.find((answer) => answer.kind === kind))
    .find((answer) => answer !== undefined)
  if (told?.kind === 'refused') {
    return fail(
      check,
      `${at}: nobody listens on that port`,
      `start the relay (\`systemctl status ztna-relay\`), or mend its port in network.toml: it has to be that of --listen`,
    )
  }
  if (told?.kind === 'no-route')
    return fail(
      check,
      `${at}: no route (${told.why})`,
      `this machine has no way there: see \`ip route get ${addresses[0]?.address ?? host}\``,
    )
  return silence(check, at, port, probe)
}

/** Nothing came back. Where the relay is on this machine, that may be the doing of its NAT, and says nothing about anybody else. */
async function silence(check: string, at: string, port: number, probe: Probe): Promise<Finding> {
  const { own = false, here = ownAddresses(), signal } = probe
  const timeoutMs = Math.min(probe.timeoutMs, HERE_MS)
  const answers = await Promise.all(
    here.map(async (address) => ({ address, answer: await ask(address, isIP(address), port, timeoutMs, signal) })),
  )
  const heard = answers.find(({ answer }) => answer.kind === 'answered')
  const said = `${at}: nothing comes back within ${probe.timeoutMs} ms`
  const elsewhere = `run \`ztna doctor\` on a machine outside this network`
  if (heard === undefined) {
    if (own) {
      const detail = `${said}, and no relay answers on port ${port} of this machine (asked ${here.join(', ')})`
      return fail(check, detail, `start the relay (\`systemctl status ztna-relay\`), or mend its port in network.toml; then ${elsewhere}`)
    }
    return fail(
      check,
      `${said} (udp-blocked)`,
      `a firewall on the way drops UDP, or that machine is down: let UDP ${port} pass towards the relay, out from here and in there`,
    )
  }
  const local = `${hostPort(heard.address, port)}/udp`
  if (own) {
    const detail = `${said}, and ${local} of this machine answers: whether nodes reach it can't be judged from here, as many a NAT leads nothing back inside (no hairpin)`
    return warn(check, detail, `${elsewhere}; where it says udp-blocked, let UDP ${port} pass in, and have the router forward it to here`)
  }
  return fail(
    check,
    `${said}, but a relay answers on this machine at ${local}: if that is the one, its NAT leads nothing back inside (no hairpin)`,
    `${elsewhere} to learn whether others reach it; for nodes in here add a URL with its inside address to network.toml, and publish`,
  )
}

/** Of the loopback, and of the first interfaces: a relay may listen on one of them alone. */
function ownAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
  const outer = all.filter(({ internal, address }) => !internal && !address.startsWith('fe80:')).map(({ address }) => address)
  return ['127.0.0.1', '::1', ...outer.slice(0, OWN_ADDRESSES)]
}

/** Its addresses. Errors: those of the resolver, and ETIMEOUT where that does not answer. */
async function resolve(host: string, timeoutMs: number): Promise<readonly { address: string; family: number }[]> {
  const stop = new AbortController()
  const late = sleep(timeoutMs, undefined, { signal: stop.signal }).then(() => {
    throw Object.assign(new Error(`no answer within ${timeoutMs} ms`), { code: 'ETIMEOUT' })
  })
  try {
    return await Promise.race([lookup(host, { all: true }), late])
  } finally {
    stop.abort()
  }
}

function endpointOf(url: string): [host: string, port: number] | undefined {
  try {
    const { protocol, hostname, port } = new URL(url)
    return protocol === 'https:' ? [hostname.replace(/^\[|\]$/g, ''), Number(port || 443)] : undefined
  } catch {
    return undefined
  }
}

function ask(address: string, family: number, port: number, timeoutMs: number, signal?: AbortSignal): Promise<Answer> {
  return new Promise((resolve) => {
    const socket: Socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    const transaction = randomBytes(12)
    const request = bindingRequest(transaction)
    const timers: NodeJS.Timeout[] = []
    let begun = performance.now()
    let ended = false
    const end = (answer: Answer): void => {
      if (ended) return
      ended = true
      for (const timer of timers) clearTimeout(timer)
      signal?.removeEventListener('abort', silent)
      socket.close()
      resolve(answer)
    }
    const silent = (): void => end({ kind: 'silent' })
    const failed = (error: NodeJS.ErrnoException): void => {
      const { code = error.message } = error
      end(code === 'ECONNREFUSED' ? { kind: 'refused' } : { kind: 'no-route', why: code })
    }
    const send = (): void => socket.send(request, (error) => (error === null ? undefined : failed(error)))
    socket.on('error', failed)
    socket.on('message', (message) => {
      if (isAnswer(message, transaction)) end({ kind: 'answered', ms: performance.now() - begun })
    })
    signal?.addEventListener('abort', silent, { once: true })
    // Connected, so that the system tells of an unreachable port.
    socket.once('connect', () => {
      begun = performance.now()
      send()
      for (const after of AGAIN_MS) if (after < timeoutMs) timers.push(setTimeout(send, after))
      timers.push(setTimeout(silent, timeoutMs))
    })
    socket.connect(port, address)
  })
}

function bindingRequest(transaction: Buffer): Buffer {
  const message = Buffer.alloc(REQUEST)
  message.writeUInt16BE(BINDING_REQUEST, 0)
  message.writeUInt16BE(REQUEST - 20, 2)
  message.writeUInt32BE(MAGIC, 4)
  transaction.copy(message, 8)
  message.writeUInt16BE(PADDING, 20)
  message.writeUInt16BE(REQUEST - 20 - 4 - 8, 22)
  message.writeUInt16BE(FINGERPRINT, REQUEST - 8)
  message.writeUInt16BE(4, REQUEST - 6)
  // RFC 8489 §14.7.
  message.writeUInt32BE((crc32(message.subarray(0, REQUEST - 8)) ^ 0x5354_554e) >>> 0, REQUEST - 4)
  return message
}

function isAnswer(message: Buffer, transaction: Buffer): boolean {
  return message.length >= 20 && message.readUInt16BE(0) === BINDING_SUCCESS && message.subarray(8, 20).equals(transaction)
}
