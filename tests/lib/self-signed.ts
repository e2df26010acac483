import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './proc.ts'

/** How openssl is told to make a key of P-256 that no password protects. */
export const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'] as const

/** A key, and a certificate for `name` that it signs itself: who trusts nothing else has a CA of its own. */
export async function selfSigned(name: string): Promise<{ readonly cert: string; readonly key: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'ztna-tls-'))
  try {
    const [cert, key] = [join(dir, 'cert.pem'), join(dir, 'key.pem')]
    const subject = ['-days', '1', '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`]
    await run(null, 'openssl', ['req', '-x509', ...NEW_KEY, ...subject, '-keyout', key, '-out', cert])
    return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
