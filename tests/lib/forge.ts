import { createPrivateKey, X509Certificate } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './proc.ts'
import { NEW_KEY } from './self-signed.ts'

/** What a certificate that `ztna pki` would never issue is to say. */
export interface Forgery {
  /** URI SANs; the identity is exactly one. */
  readonly uris: readonly string[]
  readonly dns?: readonly string[]
  /** Extended key usage, in openssl's words. Default clientAuth, serverAuth. */
  readonly eku?: string
  /** Offsets from now in seconds. Default -300 to 3600. */
  readonly from?: number
  readonly to?: number
}
export interface KeyPair {
  readonly cert: string
  readonly key: string
}

/** Signs certificates with a CA's own key, as someone who has it could. */
export class Forge {
  #count = 0
  private constructor(
    readonly dir: string,
    readonly ca: KeyPair,
  ) {}

  /** With the CA of a trust folder: the pair in DIR/ca whose key fits its certificate. */
  static ofTrustFolder(trustDir: string, dir: string): Forge {
    mkdirSync(dir, { recursive: true })
    const files = readdirSync(join(trustDir, 'ca')).map((name) => join(trustDir, 'ca', name))
    const text = new Map(files.map((file) => [file, readFileSync(file, 'utf8')]))
    for (const [cert, certText] of text) {
      if (!certText.includes('BEGIN CERTIFICATE')) continue
      const parsed = new X509Certificate(certText)
      for (const [key, keyText] of text) {
        if (keyText.includes('PRIVATE KEY') && parsed.checkPrivateKey(createPrivateKey(keyText))) return new Forge(dir, { cert, key })
      }
    }
    throw new Error(`no CA certificate with its key in ${trustDir}/ca: ${files.join(', ')}`)
  }

  /** With a CA nobody trusts. */
  static async ofStranger(dir: string): Promise<Forge> {
    mkdirSync(dir, { recursive: true })
    const ca = { cert: join(dir, 'ca.pem'), key: join(dir, 'ca.key') }
    const usage = ['-addext', 'basicConstraints=critical,CA:TRUE,pathlen:0', '-addext', 'keyUsage=critical,keyCertSign,cRLSign']
    const says = ['-days', '2', '-subj', '/CN=Stranger CA', ...usage]
    await run(null, 'openssl', ['req', '-x509', ...NEW_KEY, ...says, '-keyout', ca.key, '-out', ca.cert])
    return new Forge(dir, ca)
  }

  async leaf(forgery: Forgery): Promise<KeyPair> {
    const dir = join(this.dir, `leaf-${(this.#count += 1)}`)
    mkdirSync(join(dir, 'new'), { recursive: true })
    const [cert, key, csr, config] = ['cert.pem', 'key.pem', 'csr.pem', 'ca.cnf'].map((name) => join(dir, name)) as [
      string,
      string,
      string,
      string,
    ]
    const names = [...forgery.uris.map((uri) => `URI:${uri}`), ...(forgery.dns ?? []).map((name) => `DNS:${name}`)]
    writeFileSync(join(dir, 'index'), '')
    writeFileSync(join(dir, 'index.attr'), 'unique_subject = no\n')
    writeFileSync(
      config,
      `[ca]
default_ca = forge
[forge]
database = ${dir}/index
new_certs_dir = ${dir}/new
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = optional
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = ${forgery.eku ?? 'clientAuth, serverAuth'}
authorityKeyIdentifier = keyid
${names.length > 0 ? `subjectAltName = ${names.join(', ')}` : ''}
`,
    )
    await run(null, 'openssl', ['req', '-new', ...NEW_KEY, '-subj', '/CN=forged', '-keyout', key, '-out', csr])
    const dates = ['-startdate', asn1(forgery.from ?? -300), '-enddate', asn1(forgery.to ?? 3600)]
    await run(null, 'openssl', [
      'ca',
      '-batch',
      '-notext',
      '-config',
      config,
      '-extensions',
      'leaf',
      ...dates,
      '-cert',
      this.ca.cert,
      '-keyfile',
      this.ca.key,
      '-in',
      csr,
      '-out',
      cert,
    ])
    return { cert, key }
  }

  /** The same leaf and key with other certificates behind, before or around it. */
  chain(pair: KeyPair, certificates: readonly string[]): KeyPair {
    const cert = join(this.dir, `chain-${(this.#count += 1)}.pem`)
    writeFileSync(cert, certificates.map((file) => readFileSync(file, 'utf8')).join(''))
    return { cert, key: pair.key }
  }
}

function asn1(offsetSeconds: number): string {
  return new Date(Date.now() + offsetSeconds * 1000)
    .toISOString()
    .replace(/[-:T]/g, '')
    .replace(/\.\d+Z$/, 'Z')
}
