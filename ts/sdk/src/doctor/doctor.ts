/** Looks a node over: its folder, its relays, its machine, and what the running role says. */
import type { NativeNetwork } from '../network-source.js'
import type { Cancel } from '../types.js'
import { type DoctorCheck, type Finding, fail, timed } from './check.js'
import { type Examination, checkFolder, checkPublication, checkTrust, examine } from './folder.js'
import { checkHost } from './host.js'
import { checkCertificate, checkKey } from './identity.js'
import { readMaterial, spiffeOf } from './material.js'
import { PROBE_MS, checkRelay } from './relay-probe.js'

/** What to look at. */
export interface Patient {
  readonly source: NativeNetwork
  /** The trust folder that the node's folder is to be compared with. Default: none. */
  readonly trust?: string
  /** Whether relays are asked by UDP of this machine. Default true. */
  readonly probe?: boolean
  /** Checks of what runs, which is not asked where the identity or all relays have failed. Gets the version of the folder. */
  readonly running?: (version: number | undefined) => Promise<readonly Finding[]>
  /** Default: the clock. */
  readonly now?: number
}

/** All checks of a node, in the order in which they build on one another. */
export async function examineNode(
  { source, trust, probe = true, running, now = Date.now() }: Patient,
  cancel: Required<Pick<Cancel, 'timeoutMs'>> & Cancel,
): Promise<DoctorCheck[]> {
  const material = readMaterial(source)
  const identity = await timed('key', () => [...checkKey(material), ...checkCertificate(material, now)])
  const explained = identity.some(({ check, status }) => check !== 'clock' && status === 'fail')
  let version: number | undefined
  const folder = !('folder' in source)
    ? []
    : await timed('folder', () => {
        const found = examine({ node: source.folder, ...(trust === undefined ? {} : { trust }) })
        version = found.node?.version ?? undefined
        return ofFolder(source.folder, trust, found, explained)
      })
  const self = material.leaf === undefined ? undefined : spiffeOf(material.leaf)
  const all = material.network?.relays ?? []
  // A relay needs no other one.
  const relays = self?.role === 'relay' ? all.filter(({ name }) => name === self.name) : all
  const timeoutMs = Math.min(PROBE_MS, cancel.timeoutMs)
  const how = { timeoutMs, own: self?.role === 'relay', ...(cancel.signal === undefined ? {} : { signal: cancel.signal }) }
  const asked = probe ? await Promise.all(relays.map((relay) => timed(`relay ${relay.name}`, () => checkRelay(relay, how)))) : []
  const reached = asked.flat()
  if (relays.length === 0 && material.network !== undefined) {
    reached.push(
      ...(await timed('relay', () => [
        fail('relay', 'network.toml names no relay', '`ztna pki issue TRUST relay NAME --url https://HOST:4433 --out OUT`, and publish'),
      ])),
    )
  }
  const useless = explained || (reached.length > 0 && reached.every(({ status }) => status === 'fail'))
  const own = running === undefined || useless ? [] : await timed('role', () => running(version))
  return [...folder, ...identity, ...reached, ...own, ...(await timed('host', checkHost))]
}

/** All checks of a trust folder. */
export async function examineTrust(folder: string): Promise<DoctorCheck[]> {
  return timed('trust-folder', () => checkTrust(folder, examine({ trust: folder })))
}

function ofFolder(folder: string, trust: string | undefined, found: Examination, explained: boolean): Finding[] {
  const own = checkFolder(folder, found, explained)
  if (trust === undefined) return own
  // The policy is looked at in the node's folder where there is one.
  const policed = found.node !== null && found.node.policy !== null
  const theirs = checkTrust(trust, found).filter(({ check }) => !policed || check !== 'policy')
  return [...own, ...theirs, ...checkPublication(folder, trust, found)]
}
