/** Checks of what a node proves itself with: clock, certificate, key. */
import { createPrivateKey } from 'node:crypto'
import { type Finding, fail, ok, warn } from './check.js'
import { type Material, spiffeOf } from './material.js'

/** Files from a machine whose clock is right by so much say nothing of this one's, milliseconds: certificates are backdated by as much. */
const CLOCK_TOLERANCE_MS = 5 * 60_000
/** A warning comes when this part of a certificate's life is left (docs/operations.md). */
const RENEW_AT = 1 / 3

const time = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19).replace('T', ' ')} UTC`

/** `certificate` and `clock`. `now`: milliseconds since 1970. */
export function checkCertificate(material: Material, now: number): Finding[] {
  const { leaf, leafFault, authorities, network, writtenAt } = material
  const ahead = writtenAt !== undefined && writtenAt > now + CLOCK_TOLERANCE_MS
  const clock = ahead
    ? [
        fail(
          'clock',
          `it is ${time(now)} here, and the folder was written at ${time(writtenAt)}`,
          "set this machine's clock: `timedatectl set-ntp true`, then see `timedatectl`",
        ),
      ]
    : [ok('clock', time(now))]
  if (leaf === undefined) {
    const why = leafFault === undefined ? 'cert.pem is missing or can not be read' : `cert.pem can not be read: ${leafFault}`
    return [...clock, fail('certificate', why, 'make it anew: `ztna pki renew TRUST NAME --out OUT`')]
  }
  const own = spiffeOf(leaf)
  const name = own === undefined ? 'NAME' : `${own.role}/${own.name}`
  const renew = `\`ztna pki renew TRUST ${name} --out OUT\` where the CA is, then bring the folder here`
  const [from, until] = [Date.parse(leaf.validFrom), Date.parse(leaf.validTo)]
  const found = ((): Finding => {
    if (now < from) {
      return fail(
        'certificate',
        `not valid before ${time(from)}, and it is ${time(now)} here: this clock is behind, or that of the CA's machine was ahead`,
        `set the clock (\`timedatectl\`); where this one is right, set that of the CA's machine and ${renew}`,
      )
    }
    if (now >= until)
      return fail(
        'certificate',
        `expired at ${time(until)}; it is ${time(now)} here`,
        `${renew}; if it should still be valid, set this clock (\`timedatectl\`)`,
      )
    if (own === undefined)
      return fail('certificate', 'names no node: it has no SPIFFE ID', 'copy cert.pem from the output of `ztna pki` again')
    if (network !== undefined && own.trustDomain !== network.trustDomain) {
      const detail = `is of the trust domain ${own.trustDomain}, and network.toml of ${network.trustDomain}`
      return fail('certificate', detail, 'files of two networks are mixed: copy the whole folder from one `ztna pki` output')
    }
    if (authorities.length > 0 && !authorities.some((ca) => leaf.verify(ca.publicKey))) {
      return fail(
        'certificate',
        'was signed by none of the CAs in ca.pem',
        `publish and bring the whole folder again, or, after a change of the CA, ${renew}`,
      )
    }
    const valid = `${own.id}, valid until ${time(until)}`
    return until - now < (until - from) * RENEW_AT
      ? warn('certificate', `${valid}: less than a third of its life is left`, renew)
      : ok('certificate', valid)
  })()
  return [...clock, found]
}

/** `key`: who may read it, and whether it is the certificate's. */
export function checkKey({ keyPem, keyFile, leaf }: Material): Finding[] {
  if (keyFile !== undefined) {
    const { path, stats } = keyFile
    const mode = stats.mode & 0o7777
    if ((mode & 0o077) !== 0) {
      const detail = `${path} has mode ${mode.toString(8).padStart(4, '0')}: others may read it, and roles refuse it`
      return [fail('key', detail, `chmod 600 ${path}; renew the certificate if somebody may have read it`)]
    }
    if (keyPem === undefined) {
      return [
        fail(
          'key',
          `${path} can not be read by user ${process.getuid?.() ?? ''}`,
          `chown it to the user that runs the role: \`chown USER ${path}\``,
        ),
      ]
    }
  }
  if (keyPem === undefined) return [fail('key', 'key.pem is missing', 'make it anew: `ztna pki renew TRUST NAME --out OUT`')]
  try {
    const key = createPrivateKey(keyPem)
    if (leaf !== undefined && !leaf.checkPrivateKey(key)) {
      return [fail('key', 'key.pem is not the key of cert.pem', 'copy both from the same `ztna pki` output, or renew')]
    }
  } catch {
    return [fail('key', 'key.pem is no private key in PEM', 'copy it again from the output of `ztna pki`, or renew')]
  }
  return [ok('key', leaf === undefined ? 'readable by its owner alone' : 'belongs to the certificate, and is readable by its owner alone')]
}
