/** Certificates that nobody trusts outside one test network: their CA is deleted before they are used. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type PkiCommand, called, native } from '../native.js'
import type { Role } from '../types.js'

/** Name in all SPIFFE IDs of test networks (RFC 6761 §6.2: `.test` is nobody's). */
export const TRUST_DOMAIN = 'network.test'
/** Life of the certificates, seconds. */
const TTL_SECONDS = 86_400

/** What proves who a node is. */
export interface NodeIdentity {
  readonly role: Role
  readonly name: string
  readonly certPem: string
  readonly keyPem: string
  readonly caPem: string
}

/** Issues one for each node. Errors: ERR_ZTNA_CONFIG for a name that is not one, ERR_ZTNA_PERMISSION for the temporary folder. */
export async function issue(nodes: readonly { readonly role: Role; readonly name: string }[], zone: string): Promise<NodeIdentity[]> {
  const folder = await mkdtemp(join(tmpdir(), 'ztna-test-network-'))
  try {
    const dir = join(folder, 'ca')
    pki('init', { dir, trustDomain: TRUST_DOMAIN, zone })
    const made: NodeIdentity[] = []
    for (const [index, { role, name }] of nodes.entries()) {
      const out = join(folder, `node-${index}`)
      const urls = role === 'relay' ? ['https://192.0.2.1:4433'] : []
      pki('issue', { dir, role, name, out, groups: [], urls, ttlSeconds: TTL_SECONDS })
      const [certPem, keyPem, caPem] = await Promise.all(['cert.pem', 'key.pem', 'ca.pem'].map((file) => readFile(join(out, file), 'utf8')))
      made.push({ role, name, certPem: certPem ?? '', keyPem: keyPem ?? '', caPem: caPem ?? '' })
    }
    return made
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function pki(command: PkiCommand, request: object): void {
  called(() => native().pki(command, JSON.stringify(request)))
}
