/** Checks of folders: is it whole and sound, whom does its policy let in, is it what the trust folder says now. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fromNative } from '../errors.js'
import { native } from '../native.js'
import { type Finding, fail, ok, warn } from './check.js'

interface Fault {
  readonly part: 'files' | 'network' | 'identity' | 'policy' | 'trust'
  readonly code: string
  readonly message: string
}

interface PolicyReport {
  readonly barred: readonly string[]
  readonly undecided: number
  readonly warnings: readonly string[]
}

interface Examined {
  readonly faults: readonly Fault[]
  readonly version: number | null
  readonly id: string | null
  readonly policy: PolicyReport | null
  readonly warnings: readonly string[]
}

/** What native finds in a node's folder and a trust folder. */
export interface Examination {
  readonly node: Examined | null
  readonly trust: Examined | null
  readonly publication: { readonly name: string | null; readonly stale: readonly string[] } | null
}

/** Errors: none for what is wrong in the folders. */
export function examine(folders: { node?: string; trust?: string }): Examination {
  try {
    return JSON.parse(native().pki('examine', JSON.stringify(folders))) as Examination
  } catch (error) {
    throw fromNative(error)
  }
}

/** Whether it is one that `ztna pki init` made, rather than a node's. */
export function isTrustFolder(folder: string): boolean {
  return existsSync(join(folder, 'ca'))
}

/** `folder`, `network` and `policy` of a node. `explained`: checks that have told a fault of the certificate or key already. */
export function checkFolder(folder: string, { node, trust }: Examination, explained: boolean): Finding[] {
  if (node === null) return []
  const part = (name: Fault['part']): Fault | undefined => node.faults.find((fault) => fault.part === name)
  const [files, network, identity, policy] = [part('files'), part('network'), part('identity'), part('policy')]
  const found: Finding[] = []
  if (files === undefined) found.push(ok('folder', `${folder}, version ${node.version ?? 0}`))
  // A key that others may read has a check of its own.
  else if (files.code !== 'ERR_ZTNA_PERMISSION' || !explained) found.push(fail('folder', files.message, remedyOfFiles(folder, files)))
  if (network !== undefined)
    found.push(fail('network', network.message, 'mend network.toml in the trust folder, and publish: `ztna pki publish TRUST OUT…`'))
  if (identity !== undefined && !explained)
    found.push(fail('certificate', identity.message, '`ztna pki renew TRUST NAME --out OUT`, then bring the folder here'))
  if (policy !== undefined)
    found.push(fail('policy', policy.message, 'mend policy.cedar in the trust folder (`ztna policy check TRUST`), and publish'))
  else if (node.policy !== null) found.push(...checkPolicy(node.policy, trust))
  return found
}

/** `trust-folder`, `connectors` and `policy` of a trust folder. */
export function checkTrust(folder: string, { trust }: Examination): Finding[] {
  if (trust === null) return []
  const [fault] = trust.faults
  if (fault !== undefined)
    return [fail('trust-folder', fault.message, 'mend what the message names; `ztna policy check TRUST` looks again')]
  const connectors = trust.warnings.map((warning) => {
    const [detail = warning, remedy = 'see `ztna policy check TRUST`'] = splitLast(warning, '; ')
    return warn('connectors', detail, remedy)
  })
  return [
    ok('trust-folder', `${folder}, version ${trust.version ?? 0}`),
    ...(connectors.length === 0 ? [ok('connectors', 'each connector that a service names has a certificate')] : connectors),
    ...(trust.policy === null ? [] : checkPolicy(trust.policy, trust)),
  ]
}

/** `publication`: whether the node's folder is what the trust folder says now. */
export function checkPublication(folder: string, trustFolder: string, { node, trust, publication }: Examination): Finding[] {
  if (publication === null) return []
  const publish = `ztna pki publish ${trustFolder} ${folder}`
  if (publication.name === null) {
    return [
      fail(
        'publication',
        'the certificate in it was not issued from this trust folder, or has been renewed elsewhere',
        '`ztna pki renew TRUST NAME --out OUT`, then bring that folder here',
      ),
    ]
  }
  if (publication.stale.length === 0) return [ok('publication', `version ${node?.version ?? 0} is what the trust folder says now`)]
  const detail = `version ${node?.version ?? 0} is older than the trust folder (last published: ${trust?.version ?? 0}): ${publication.stale.join(', ')} differ`
  return [fail('publication', detail, `${publish}, then bring the folder to the node`)]
}

function checkPolicy({ barred, undecided, warnings }: PolicyReport, trust: Examined | null): Finding[] {
  const odd = warnings.map((warning) => warn('policy', warning, 'mend policy.cedar or network.toml in the trust folder, and publish'))
  if (barred.length === 0) {
    const limits = undecided === 0 ? '' : ` (${undecided} not looked at in full)`
    return odd.length > 0 ? odd : [ok('policy', `lets somebody reach every service${limits}`)]
  }
  const names = barred.slice(0, 10).join(', ') + (barred.length > 10 ? `, and ${barred.length - 10} more` : '')
  const detail = `permits no agent anything of: ${names}`
  const unpublished = trust?.policy !== null && trust?.policy !== undefined && !barred.some((name) => trust.policy?.barred.includes(name))
  if (unpublished) return [fail('policy', detail, 'the trust folder permits it: publish it, `ztna pki publish TRUST OUT…`'), ...odd]
  // Nobody is who may reach it: policy may well mean that.
  const remedy =
    'nothing if nobody is to reach it; else permit it in policy.cedar of the trust folder, try with `ztna policy check TRUST --agent NAME --to SERVICE:PORT`, and publish'
  return [warn('policy', detail, remedy), ...odd]
}

function remedyOfFiles(folder: string, { message, code }: Fault): string {
  if (code === 'ERR_ZTNA_PERMISSION') return `let the user that runs the role read ${folder}`
  if (message.includes('publish again'))
    return `bring the whole folder here again, snapshot.json last; or \`ztna pki publish TRUST ${folder}\``
  return 'name the folder that `ztna pki issue TRUST ROLE NAME --out OUT` wrote'
}

function splitLast(text: string, by: string): readonly [string] | readonly [string, string] {
  const at = text.lastIndexOf(by)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + by.length)]
}
