/** What the middleware of all frameworks does: lets in who came through the tunnel and is in a group, and says who it is. */
import { listOf, notAccepted, optionsOf } from './arguments.js'
import { configError } from './errors.js'
import type { Identity } from './types.js'

/** How to make the middleware. */
export interface ZtnaOptions {
  /** The caller has to be in one of these. Default: anyone who came through the tunnel, whom policy has let in already. */
  groups?: readonly string[]
}

/** Why a request is not let in, as JSON in the answer's body. */
export interface Refusal {
  /** `unauthenticated`: it did not come through the tunnel, status 401; `forbidden`: the caller is in none of the groups, status 403. */
  readonly error: 'unauthenticated' | 'forbidden'
  /** For people; it may change. */
  readonly message: string
}

/** The answer to a request that is not let in. */
export interface RefusedWith {
  readonly status: 401 | 403
  readonly headers: Readonly<Record<string, string>>
  readonly body: Refusal
}

/** Lets a request in, by who sent it, or says with what to answer. */
export type Gate = (identify: () => Identity) => { readonly identity: Identity } | { readonly refused: RefusedWith }

/** Errors: ERR_ZTNA_CONFIG naming what is not accepted. No groups at all would let nobody in, and is refused. */
export function gateOf(options: ZtnaOptions): Gate {
  const { groups } = optionsOf(options, 'options of ztna()', ['groups'])
  const accepted = 'an array of one or more names of groups'
  const names = groups === undefined ? undefined : listOf(groups, 'groups', accepted)
  if (names?.length === 0) throw notAccepted(groups, 'groups', accepted)
  const wanted = names?.map((name: unknown, at) => {
    if (typeof name === 'string' && name !== '') return name
    throw configError(`groups[${at}] is not the name of a group; accepted: ${accepted}`)
  })
  return (identify) => {
    const identity = known(identify)
    // Of RFC 9110 §15.5.2: a 401 names how to authenticate.
    const headers = { 'www-authenticate': 'ZTNA' }
    if (identity === undefined) {
      return refused(401, headers, 'unauthenticated', 'this request did not come through the tunnel, so nobody vouches for its sender')
    }
    if (wanted === undefined || identity.groups.some((group) => wanted.includes(group))) return { identity }
    return refused(403, {}, 'forbidden', `${identity.name} is in none of the groups that this needs: ${wanted.join(', ')}`)
  }
}

/** Whatever goes wrong: who is not known is nobody. */
function known(identify: () => Identity): Identity | undefined {
  try {
    return identify()
  } catch {
    return undefined
  }
}

function refused(
  status: 401 | 403,
  headers: Readonly<Record<string, string>>,
  error: Refusal['error'],
  message: string,
): { readonly refused: RefusedWith } {
  return { refused: { status, headers: { ...headers, 'cache-control': 'no-store' }, body: { error, message } } }
}
