// A Koa app without a port. identityOf() is all it needs: ctx.req is Node's request.
import { once } from 'node:events'
import Koa from 'koa'
import { identityOf, ZtnaConnector } from '@ztna/sdk'

const app = new Koa()
app.use(async (ctx, next) => {
  ctx.state.identity = identityOf(ctx.req)
  await next()
})
app.use((ctx) => {
  const { name, groups } = ctx.state.identity
  ctx.assert(ctx.path !== '/admin' || groups.includes('ops'), 403)
  ctx.body = `hello ${name}\n`
})

const connector = await new ZtnaConnector().start()
await connector.serve('web', { http: app.callback() })
console.log('serving web')

await once(process, 'SIGINT')
await connector.close()
