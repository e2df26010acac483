// PostgreSQL by pg: node pg.mjs [service:port]   (ZTNA_NETWORK names the trust folder, PGUSER, PGPASSWORD and PGDATABASE the rest)
import { Pool } from 'pg'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const target = process.argv[2] ?? 'db:5432'
const agent = await new ZtnaAgent().start()
const pool = new Pool({ max: 4, stream: () => agent.createConnection(target) })
// As over TCP: an idle connection may end. The pool makes another when it needs one.
pool.on('error', (error) => console.error(error.code, error.message))
try {
  const { rows } = await pool.query('select $1::int + $2::int as sum', [40, 2])
  console.log(rows)

  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query('create temporary table note (text text) on commit drop')
    await client.query('insert into note values ($1)', ['written through the tunnel'])
    console.log((await client.query('select text from note')).rows)
    await client.query('commit')
  } finally {
    client.release()
  }
} catch (error) {
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await pool.end()
  await agent.close()
}
