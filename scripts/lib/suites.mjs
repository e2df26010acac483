// Runs one test suite and counts it. A suite that crashed, hung or ran nothing counts as one failure of its own,
// so that the total can't look green over a suite that never happened.
import { createWriteStream } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { lastLines, root, run, say } from './process.mjs'

/** Whole output of each suite, for when the summary is not enough. */
export const logFolder = join(root, 'target', 'test-logs')

/**
 * `cargo test --workspace`, all targets and doc tests.
 * Returns `{ passed, failed, skipped, failures }`; `failures` are texts for the reader.
 */
export async function rustSuite(timeoutMs) {
  const count = new CargoCount()
  const result = await logged('rust', 'cargo', ['test', '--workspace', '--locked', '--no-fail-fast'], {
    timeoutMs,
    onLine: (line) => {
      count.line(line)
      if (/^\s+(Running|Doc-tests) /.test(line) || /^test .* FAILED$/.test(line)) say(`rust: ${line.trim()}`)
    },
  })
  return verdict('rust', count, result)
}

/** `vitest run` in the folder of one workspace. */
export async function vitestSuite(name, folder, timeoutMs) {
  const report = join(logFolder, `${name}.json`)
  await rm(report, { force: true })
  const args = [
    join(root, 'node_modules', 'vitest', 'vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ]
  const result = await logged(name, process.execPath, args, {
    cwd: join(root, folder),
    env: { ...process.env, NO_COLOR: '1' },
    timeoutMs,
    onLine: (line) => {
      if (/^\s*(✓|✗|×|❯|FAIL)/.test(line)) say(`${name}: ${line.trim()}`)
    },
  })
  const text = await readFile(report, 'utf8').catch(() => null)
  return verdict(name, text === null ? emptyCount() : vitestCount(JSON.parse(text)), result)
}

/** Adds up what `cargo test` prints: one "test result" line for each test binary. */
export class CargoCount {
  passed = 0
  failed = 0
  skipped = 0
  failures = []
  #section = null

  line(line) {
    const result = /^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;/.exec(line)
    if (result) {
      this.passed += Number(result[1])
      this.failed += Number(result[2])
      this.skipped += Number(result[3])
    }
    // Each failed test's own output stands under "---- name stdout ----", up to the list of names.
    const start = /^---- (.+) stdout ----$/.exec(line)
    if (start) this.failures.push((this.#section = { name: start[1], text: '' }))
    else if (line === 'failures:' || result) this.#section = null
    else if (this.#section) this.#section.text += `${line}\n`
  }
}

/** Adds up vitest's JSON report. */
function vitestCount(report) {
  const count = emptyCount()
  for (const file of report.testResults) {
    let failedHere = 0
    for (const test of file.assertionResults) {
      if (test.status === 'passed') count.passed += 1
      else if (test.status === 'failed') {
        failedHere += 1
        count.failures.push({ name: `${file.name}: ${test.fullName}`, text: test.failureMessages.join('\n') })
      } else count.skipped += 1
    }
    // A file that failed as a whole (it did not load, or a hook threw) has no failed test to show for it.
    if (file.status === 'failed' && failedHere === 0) {
      failedHere = 1
      count.failures.push({ name: file.name, text: file.message })
    }
    count.failed += failedHere
  }
  return count
}

function emptyCount() {
  return { passed: 0, failed: 0, skipped: 0, failures: [] }
}

function verdict(name, { passed, failed, skipped, failures }, result) {
  const crash = whatWentWrong(passed + failed, failed, result)
  if (crash === null) return { name, passed, failed, skipped, failures }
  const text = lastLines(result.output, 60)
  return { name, passed, failed: failed + 1, skipped, failures: [...failures, { name: `${name}: ${crash}`, text }] }
}

function whatWentWrong(ran, failed, { code, signal, timedOut }) {
  if (timedOut) return 'the suite took too long and was ended'
  if (signal !== null) return `the suite was ended by ${signal}`
  if (ran === 0) return 'the suite ran no test'
  if (code !== 0 && failed === 0) return `the suite ended with exit code ${code} though no test failed`
  return null
}

async function logged(name, command, args, options) {
  await mkdir(logFolder, { recursive: true })
  const log = createWriteStream(join(logFolder, `${name}.log`))
  try {
    return await run(command, args, {
      ...options,
      onLine: (line, stream) => {
        log.write(`${line}\n`)
        options.onLine(line, stream)
      },
    })
  } finally {
    await new Promise((resolve) => log.end(resolve))
  }
}
