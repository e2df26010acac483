import { client } from '../../tests/lib/peers.ts'
import { row, type Row } from '../lib/measure.ts'
import { topology } from '../lib/topology.ts'

/** An HTTP request on a connection that stands, against the same in the connector's namespace. */
export async function request(): Promise<Row[]> {
  await using t = await topology('forwarded')
  const measure = async (place: string): Promise<number> =>
    Number((await client(t.place(place), 'keepalive.mjs', ['http://127.0.0.1:8080/hello', '2000']))['p50Ms'])
  const bare = await measure('c1')
  const tunnel = await measure('alice')
  return [row('HTTP keep-alive request, p50 over bare loopback', { 'ms more': tunnel - bare, 'ms bare': bare }, [['ms more', '<=', 0.6]])]
}
