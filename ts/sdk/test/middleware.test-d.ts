import type { Request as ExpressRequest, RequestHandler } from 'express'
import type { FastifyPluginAsync, FastifyRequest } from 'fastify'
import type { Context, MiddlewareHandler } from 'hono'
import { expectTypeOf, test } from 'vitest'
import type * as express from '../src/express.js'
import type * as fastify from '../src/fastify.js'
import type * as hono from '../src/hono.js'

test('every middleware takes groups, and refuses in the same words', () => {
  expectTypeOf<express.ZtnaOptions>().toEqualTypeOf<{ groups?: readonly string[] }>()
  expectTypeOf<fastify.ZtnaOptions>().toEqualTypeOf<express.ZtnaOptions>()
  expectTypeOf<hono.ZtnaOptions>().toEqualTypeOf<express.ZtnaOptions>()
  expectTypeOf<express.Refusal>().toEqualTypeOf<{ readonly error: 'unauthenticated' | 'forbidden'; readonly message: string }>()
  expectTypeOf<fastify.Refusal>().toEqualTypeOf<hono.Refusal>()
  expectTypeOf<express.Identity['role']>().toEqualTypeOf<express.Role>()
})

test('Express takes the middleware, and its requests have the caller', () => {
  expectTypeOf<typeof express.ztna>().returns.toEqualTypeOf<express.ZtnaMiddleware>()
  expectTypeOf<express.ZtnaMiddleware>().toExtend<RequestHandler>()
  expectTypeOf<ExpressRequest['identity']>().toEqualTypeOf<express.Identity>()
})

test('Fastify takes the plugin, and its requests have the caller', () => {
  expectTypeOf<typeof fastify.ztna>().toEqualTypeOf<fastify.ZtnaPlugin>()
  expectTypeOf<fastify.ZtnaPlugin>().toExtend<FastifyPluginAsync<fastify.ZtnaOptions>>()
  expectTypeOf<FastifyRequest['identity']>().toEqualTypeOf<fastify.Identity>()
})

test('Hono takes the middleware, and its context has the caller', () => {
  expectTypeOf<typeof hono.ztna>().returns.toEqualTypeOf<MiddlewareHandler>()
  expectTypeOf<Context['var']['identity']>().toEqualTypeOf<hono.Identity>()
})
