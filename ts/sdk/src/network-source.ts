/** Where a role gets its network from: a folder that the native side watches, or content handed over in memory. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse, stringify } from 'smol-toml'
import { fieldsOf, isObject, notAccepted, plainOf, reading } from './arguments.js'
import { configError } from './errors.js'

/** A folder written by `ztna pki` (watched, reloaded as a whole), its `file:` URL, or the same content in memory. An iterable hands over each new snapshot. */
export type NetworkSource = string | URL | NetworkContent | AsyncIterable<NetworkContent>

/** A node's folder, in memory. Relays and connectors need `policy`. */
export interface NetworkContent {
  /** The node's certificate, then its issuers below the CA, PEM. */
  readonly certPem: string
  /** The certificate's private key, PKCS #8 in PEM. */
  readonly keyPem: string
  /** The CAs that are trusted, PEM. */
  readonly caPem: string
  /** What the network consists of. */
  readonly network: NetworkConfig
  /** Cedar text. Default: none, which permits nothing. */
  readonly policy?: string
  /** Text of `revoked.toml`. Default: nothing is revoked. */
  readonly revoked?: string
}

/** The content of `network.toml`. */
export interface NetworkConfig {
  /** Lower-case DNS name: the host part of every SPIFFE ID. */
  readonly trustDomain: string
  /** DNS suffix of service names. */
  readonly zone: string
  /** Relays that nodes connect to. */
  readonly relays: readonly RelayEntry[]
  /** Services, and the connectors that serve them. */
  readonly services: readonly ServiceEntry[]
  /** Agents with their groups: relays and connectors decide by them. */
  readonly agents?: readonly AgentEntry[]
  /** `tunnel` keeps relays from seeing raw inner packets. Default `forwarded`. */
  readonly relayMode?: 'forwarded' | 'tunnel'
}

/** A `[[relay]]` of `network.toml`. */
export interface RelayEntry {
  /** Name in its certificate. */
  readonly name: string
  /** `https://host:port` */
  readonly urls: readonly string[]
  /** For the operator; nothing is decided by it. */
  readonly region?: string
}

/** A `[[service]]` of `network.toml`. */
export interface ServiceEntry {
  /** Name in host names and policies. */
  readonly name: string
  /** Names of the connectors that may serve it. */
  readonly connectors: readonly string[]
  /** Ports and `"low-high"` ranges. */
  readonly tcp?: readonly (number | string)[]
  /** As `tcp`. */
  readonly udp?: readonly (number | string)[]
  /** Whether echo is answered. Default false. */
  readonly icmp?: boolean
}

/** An `[[agent]]` of `network.toml`. */
export interface AgentEntry {
  /** Name in its certificate. */
  readonly name: string
  /** Groups that policies name. Default: none. */
  readonly groups?: readonly string[]
}

/** The `network` of the native options. */
export type NativeNetwork = { readonly folder: string } | { readonly files: NativeFiles }

export interface NativeFiles {
  readonly certPem: string
  readonly keyPem: string
  readonly caPem: string
  readonly networkToml: string
  readonly policyCedar: string | null
  readonly revokedToml: string | null
}

/** One role's view of its source: the first snapshot, then, for an iterable, each later one. */
export class NetworkFeed {
  readonly #source: NetworkSource
  #iterator: AsyncIterator<NetworkContent> | undefined
  #first: Promise<NetworkContent> | undefined
  #latest: NetworkContent | undefined

  /** Does no I/O. Errors: ERR_ZTNA_CONFIG when there is no source or it is not one. */
  constructor(source: NetworkSource | undefined) {
    const chosen = source ?? process.env['ZTNA_NETWORK']
    if (chosen === undefined || chosen === '') {
      throw configError('no network: give the option `network` (a folder written by `ztna pki`) or set ZTNA_NETWORK')
    }
    if (typeof chosen !== 'string' && !isObject(chosen)) {
      throw notAccepted(chosen, 'network', 'a folder written by `ztna pki`, its file: URL, or its content in memory')
    }
    const url = reading('network', () => (chosen instanceof URL ? chosen : undefined))
    if (url !== undefined && url.protocol !== 'file:') {
      throw configError(`network URL ${url.href} is not accepted; only file: URLs of a folder`)
    }
    this.#source = chosen
  }

  /** What native starts from. An iterable is asked for its first snapshot once, however often the role starts. */
  async open(): Promise<NativeNetwork> {
    const source = this.#source
    if (typeof source === 'string') return { folder: source }
    if (source instanceof URL) return { folder: fileURLToPath(source) }
    if (!isIterable(source)) this.#latest = contentOf(source)
    else {
      this.#first ??= this.#next()
      this.#latest ??= await this.#first
    }
    return { files: toFiles(this.#latest) }
  }

  /** Calls `apply` with each snapshot after the first until the source or `signal` ends. */
  async follow(signal: AbortSignal, apply: (files: NativeFiles) => Promise<void>): Promise<void> {
    const iterator = this.#iterator
    if (iterator === undefined) return
    while (!signal.aborted) {
      const step = await iterator.next()
      if (step.done === true || signal.aborted) return
      this.#latest = contentOf(step.value)
      await apply(toFiles(this.#latest))
    }
  }

  /** The network as text says now, for names and ports. The native side decides on its own copy. */
  async config(): Promise<NetworkConfig> {
    const source = this.#source
    if (typeof source === 'string' || source instanceof URL) {
      const folder = typeof source === 'string' ? source : fileURLToPath(source)
      return readNetworkToml(await readFile(join(folder, 'network.toml'), 'utf8'))
    }
    const content = this.#latest ?? (isIterable(source) ? undefined : contentOf(source))
    if (content === undefined) throw configError('the network source has handed over nothing yet')
    return content.network
  }

  /** Lets an iterable go. */
  close(): void {
    const ended = this.#iterator?.return?.()
    this.#iterator = undefined
    ended?.then(undefined, () => {})
  }

  async #next(): Promise<NetworkContent> {
    if (!isIterable(this.#source)) throw configError('not an iterable network source')
    this.#iterator = this.#source[Symbol.asyncIterator]()
    const step = await this.#iterator.next()
    if (step.done === true) throw configError('the network source ended without handing over a network')
    return contentOf(step.value)
  }
}

/** Read once: what a role shows is what native has got. */
function contentOf(given: NetworkContent): NetworkContent {
  const content = fieldsOf(given, 'network', "the content of a node's folder", CONTENT, 'network.')
  return { ...content, network: plainOf(content.network, 'network.network') }
}

const CONTENT: readonly (keyof NetworkContent)[] = ['certPem', 'keyPem', 'caPem', 'network', 'policy', 'revoked']

/** In-memory content as the files native reads. */
export function toFiles(content: NetworkContent): NativeFiles {
  const keys = ['certPem', 'keyPem', 'caPem', 'network'] as const
  const missing = keys.filter((key) => !content[key])
  if (missing.length > 0) throw configError(`network content lacks ${missing.join(', ')}`)
  return {
    certPem: content.certPem,
    keyPem: content.keyPem,
    caPem: content.caPem,
    networkToml: writeNetworkToml(content.network),
    policyCedar: content.policy ?? null,
    revokedToml: content.revoked ?? null,
  }
}

/** `network.toml` of a configuration. */
function writeNetworkToml(network: NetworkConfig): string {
  return stringify({
    trust_domain: network.trustDomain,
    zone: network.zone,
    ...(network.relayMode === undefined ? {} : { relay_mode: network.relayMode }),
    relay: network.relays,
    service: network.services,
    agent: network.agents ?? [],
  })
}

/** The parts of a `network.toml` that the SDK shows; native has validated it. */
export function readNetworkToml(text: string): NetworkConfig {
  const table = parse(text) as Record<string, unknown>
  const string = (key: string, otherwise: string): string => (typeof table[key] === 'string' ? table[key] : otherwise)
  const list = (key: string): readonly unknown[] => (Array.isArray(table[key]) ? table[key] : [])
  return {
    trustDomain: string('trust_domain', ''),
    zone: string('zone', 'ztna.internal'),
    relays: list('relay') as readonly RelayEntry[],
    services: list('service') as readonly ServiceEntry[],
    agents: list('agent') as readonly AgentEntry[],
    ...(table['relay_mode'] === 'tunnel' ? { relayMode: 'tunnel' as const } : {}),
  }
}

function isIterable(source: NetworkSource): source is AsyncIterable<NetworkContent> {
  return typeof source === 'object' && reading('network', () => Symbol.asyncIterator in source)
}
