// npm run bench [-- NAME...]: agent, relay and connector in three namespaces, and Debian's stunnel and ssh -L in the same three beside
// them; --release names the build that is in place. Prints a table and writes bench/results/<date>.json. No figure fails anything: only what can't be measured ends with 1.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { removeStale } from '../tests/lib/netns.ts'
import { run } from '../tests/lib/proc.ts'
import { load, machine, table, type Measurement, type Row } from './lib/measure.ts'
import { beside } from './rows/beside.ts'
import { bulk, wan } from './rows/bulk.ts'
import { direct, roundTrip } from './rows/direct.ts'
import { cold, connect, firstByte, request } from './rows/latency.ts'
import { iroh } from './rows/iroh.ts'
import { idleFlows } from './rows/memory.ts'
import { idle, near, ping } from './rows/long-paths.ts'
import { node } from './rows/node.ts'
import { died, file, first, guessed, moved, promotion, rebound } from './rows/paths.ts'
import { flooded, handshakes, idleNodes } from './rows/relay.ts'
import { switched, switchedWan } from './rows/switch.ts'
import { udpNode } from './rows/udp-node.ts'
import { undici } from './rows/undici.ts'

const MEASUREMENTS: Readonly<Record<string, Measurement>> = {
  beside,
  forwarded: () => bulk('forwarded'),
  tunnel: () => bulk('tunnel'),
  node: () => node('forwarded'),
  direct,
  'direct-node': () => node('direct'),
  'direct-rtt': roundTrip,
  undici: () => undici('forwarded'),
  'direct-undici': () => undici('direct'),
  'udp-node': udpNode,
  iroh,
  switch: switched,
  'switch-wan': switchedWan,
  connect,
  cold,
  request,
  'first-byte': firstByte,
  'idle-flows': idleFlows,
  handshakes,
  'idle-nodes': idleNodes,
  flood: flooded,
  'wan-forwarded': () => wan('forwarded'),
  'wan-tunnel': () => wan('tunnel'),
  'path-first': first,
  'path-guessed': guessed,
  'path-dies': died,
  'path-rebinds': rebound,
  'path-moves': moved,
  'path-file': file,
  'path-promotion': promotion,
  'path-ping': ping,
  'path-idle': idle,
  'path-near': near,
}

/** Which build of the addon was put in place (scripts/bench.mjs). */
const RELEASE = '--release'

async function main(args: readonly string[]): Promise<number> {
  const wanted = args.filter((arg) => arg !== RELEASE)
  const unknown = wanted.filter((name) => MEASUREMENTS[name] === undefined)
  if (unknown.length > 0) {
    console.error(`bench: ${unknown.join(', ')} is not one of ${Object.keys(MEASUREMENTS).join(', ')}`)
    return 64
  }
  if (process.getuid?.() !== 0) {
    console.error('bench: network namespaces need root')
    return 77
  }
  removeStale()
  const rows: Row[] = []
  const failures: string[] = []
  const loadBefore = load()
  for (const [name, measure] of Object.entries(MEASUREMENTS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    console.error(`measuring ${name}`)
    try {
      rows.push(...(await measure()))
    } catch (error) {
      failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  const { stdout: commit } = await run(null, 'git', ['rev-parse', '--short', 'HEAD'], { codes: 'any' })
  const build = args.includes(RELEASE) ? 'release' : 'dev'
  const result = { date: new Date().toISOString(), commit: commit.trim(), build, machine: machine(), loadBefore, rows, failures }
  const dir = fileURLToPath(new URL('results', import.meta.url))
  mkdirSync(dir, { recursive: true })
  const file = join(dir, `${result.date.slice(0, 19).replaceAll(':', '-')}.json`)
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`${JSON.stringify(result.machine)}, ${build} build, load before ${loadBefore}\n\n${table(rows)}`)
  for (const failure of failures) console.error(`could not be measured: ${failure}`)
  return failures.length === 0 ? 0 : 1
}

process.exitCode = await main(process.argv.slice(2))
