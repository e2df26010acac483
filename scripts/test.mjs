// Every test: Rust, the SDK, and end to end. Ends with one line, `N passed, N failed`, over all of them.
//
//   npm test [-- --only rust|sdk|e2e]
import { parseArgs } from 'node:util'
import { ensure } from './ensure.mjs'
import { Failure, main, say } from './lib/process.mjs'
import { logFolder, rustSuite, vitestSuite } from './lib/suites.mjs'

const minutes = (count) => count * 60_000

// The limits are there to end what hangs, not to judge speed; together they stay under a CI run's 90 minutes.
const suites = {
  rust: () => rustSuite(minutes(30)),
  sdk: () => vitestSuite('sdk', 'ts/sdk', minutes(5)),
  e2e: () => vitestSuite('e2e', 'tests', minutes(45)),
}

async function test(only) {
  if (only !== undefined && suites[only] === undefined) {
    throw new Failure(`--only ${only}: there is no such suite; the suites are ${Object.keys(suites).join(', ')}`)
  }
  await ensure(['test'])
  const results = []
  for (const [name, suite] of Object.entries(suites)) {
    if (only === undefined || only === name) results.push(await timed(name, suite))
  }
  for (const { name, text } of results.flatMap(({ failures }) => failures)) {
    process.stdout.write(`\nFAILED ${name}\n${text.trimEnd()}\n`)
  }
  const sum = (key) => results.reduce((total, result) => total + result[key], 0)
  process.stdout.write('\n')
  for (const result of results) {
    const skipped = result.skipped === 0 ? '' : ` (${result.skipped} not run on this machine)`
    process.stdout.write(`${result.name.padEnd(5)} ${result.passed} ok, ${result.failed} not${skipped}, ${result.seconds} s\n`)
  }
  if (sum('failed') > 0) process.stdout.write(`whole output: ${logFolder}\n`)
  process.stdout.write(`${sum('passed')} passed, ${sum('failed')} failed\n`)
  return sum('failed') === 0 ? 0 : 1
}

async function timed(name, suite) {
  say(`${name}: start`)
  const started = Date.now()
  const result = await suite()
  return { ...result, seconds: Math.round((Date.now() - started) / 1000) }
}

await main(() => test(parseArgs({ options: { only: { type: 'string' } } }).values.only))
