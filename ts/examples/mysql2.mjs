// MySQL and MariaDB by mysql2: node mysql2.mjs [service:port] [user] [database]   (ZTNA_NETWORK names the trust folder, MYSQL_PWD the password)
import { createPool } from 'mysql2/promise'
import { ZtnaAgent, ztnaErrorOf } from '@ztna/sdk'

const [target = 'sql:3306', user = 'app', database = 'app'] = process.argv.slice(2)
const agent = await new ZtnaAgent().start()
const pool = createPool({
  user,
  password: process.env.MYSQL_PWD,
  database,
  connectionLimit: 4,
  // Called for each connection, and at once: that is what createConnection is for.
  stream: () => agent.createConnection(target),
})
try {
  const [rows] = await pool.execute('select ? + ? as sum', [40, 2])
  console.log(rows)
} catch (error) {
  console.error(error.code, ztnaErrorOf(error)?.message ?? error.message)
  process.exitCode = 1
} finally {
  await pool.end()
  await agent.close()
}
