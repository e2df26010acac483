/**
 * Fastify 5: `await app.register(ztna)` lets in who came through the tunnel, and decorates requests with the caller as `request.identity`. Serve
 * it with `await app.ready()`, then `connector.serve('web', { http: app.server })`.
 */
import type { FastifyInstance } from 'fastify'
import { fieldsOf } from './arguments.js'
import { identityOf } from './identity-of.js'
import { type ZtnaOptions, gateOf } from './middleware.js'
import type { Identity } from './types.js'

export type { Refusal, ZtnaOptions } from './middleware.js'
export type { Identity, Role } from './types.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The caller, proven by TLS. Set by the plugin `ztna`. */
    identity: Identity
  }
}

/** The plugin. Routes of the context that registers it, and of those below, are behind it. */
export interface ZtnaPlugin {
  (app: FastifyInstance, options: ZtnaOptions): Promise<void>
}

/**
 * Answers 401 to requests that did not come through the tunnel and 403 to callers in none of `groups`, with {@link Refusal} as JSON, before
 * anything of a body is read. May be registered again in a context below, with groups of its own. Errors: ERR_ZTNA_CONFIG when the options
 * are not accepted.
 */
export const ztna: ZtnaPlugin = Object.assign(
  async (app: FastifyInstance, options: ZtnaOptions): Promise<void> => {
    // Fastify puts options of its own beside ours.
    const gate = gateOf(fieldsOf(options, 'options of ztna()', '{ groups? }', ['groups']))
    if (!app.hasRequestDecorator('identity')) app.decorateRequest('identity')
    app.addHook('onRequest', async (request, reply) => {
      const verdict = gate(() => identityOf(request.raw))
      if ('identity' in verdict) {
        request.identity = verdict.identity
        return undefined
      }
      const { status, headers, body } = verdict.refused
      return reply.code(status).headers(headers).send(body)
    })
  },
  {
    // What fastify-plugin would set: the hook is for the context that registers us, not for one of our own.
    [Symbol.for('skip-override')]: true,
    [Symbol.for('fastify.display-name')]: '@ztna/sdk/fastify',
    [Symbol.for('plugin-meta')]: { name: '@ztna/sdk/fastify', fastify: '5.x' },
  },
)
