/** What a node has been given, as far as it can be read: a doctor goes on where a role would stop. */
import { X509Certificate } from 'node:crypto'
import { type Stats, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type NativeNetwork, type NetworkConfig, readNetworkToml } from '../network-source.js'

/** The parts of a node's folder. What is missing could not be read, or is not there. */
export interface Material {
  /** Undefined where the content was handed over in memory. */
  readonly folder?: string
  readonly leaf?: X509Certificate
  /** Why there is no `leaf`. */
  readonly leafFault?: string
  readonly authorities: readonly X509Certificate[]
  readonly keyPem?: string
  readonly keyFile?: { readonly path: string; readonly stats: Stats }
  readonly network?: NetworkConfig
  /** When the newest of the files was written, milliseconds since 1970. */
  readonly writtenAt?: number
}

/** Reads leniently. */
export function readMaterial(source: NativeNetwork): Material {
  if (!('folder' in source)) {
    const { certPem, keyPem, caPem, networkToml } = source.files
    return { ...certificates(certPem, caPem), keyPem, ...networkOf(networkToml) }
  }
  const { folder } = source
  const at = (file: string): string => join(folder, file)
  const keyStats = statOf(at('key.pem'))
  const [keyPem, writtenAt] = [textOf(at('key.pem')), statOf(at('snapshot.json'))?.mtimeMs]
  return {
    folder,
    ...certificates(textOf(at('cert.pem')), textOf(at('ca.pem'))),
    ...networkOf(textOf(at('network.toml'))),
    ...(keyPem === undefined ? {} : { keyPem }),
    ...(keyStats === undefined ? {} : { keyFile: { path: at('key.pem'), stats: keyStats } }),
    ...(writtenAt === undefined ? {} : { writtenAt }),
  }
}

/** The SPIFFE ID of a certificate: `role` and `name` of `spiffe://<trust domain>/<role>/<name>`. */
export function spiffeOf(leaf: X509Certificate): { id: string; trustDomain: string; role: string; name: string } | undefined {
  const [id, trustDomain, role, name] = /spiffe:\/\/([a-z0-9.-]+)\/([a-z]+)\/([a-z0-9-]+)/.exec(leaf.subjectAltName ?? '') ?? []
  return id === undefined || trustDomain === undefined || role === undefined || name === undefined
    ? undefined
    : { id, trustDomain, role, name }
}

function certificates(certPem: string | undefined, caPem: string | undefined): Pick<Material, 'leaf' | 'leafFault' | 'authorities'> {
  const authorities = (caPem?.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).flatMap((pem) => parsed(pem))
  if (certPem === undefined) return { authorities }
  try {
    return { authorities, leaf: new X509Certificate(certPem) }
  } catch (error) {
    return { authorities, leafFault: (error as Error).message }
  }
}

function parsed(pem: string): X509Certificate[] {
  try {
    return [new X509Certificate(pem)]
  } catch {
    // Native says of ca.pem what is wrong with it.
    return []
  }
}

function networkOf(toml: string | undefined): Pick<Material, 'network'> {
  try {
    return toml === undefined ? {} : { network: readNetworkToml(toml) }
  } catch {
    // Native says where.
    return {}
  }
}

function textOf(path: string): string | undefined {
  try {
    // A FIFO would never end.
    return statSync(path).isFile() ? readFileSync(path, 'utf8') : undefined
  } catch {
    return undefined
  }
}

function statOf(path: string): Stats | undefined {
  return statSync(path, { throwIfNoEntry: false })
}
