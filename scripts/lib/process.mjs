// Child processes for the scripts: run one to its end, or keep one and stop it. Only what was started here is ever stopped.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root folder. */
export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

/** A progress line. It goes to stderr: stdout belongs to the script's result. */
export function say(line) {
  process.stderr.write(`${line}\n`)
}

/** Ends the script with one sentence for the reader; a stack trace would hide it. */
export class Failure extends Error {}

/**
 * Runs a program to its end.
 *
 * `onLine(line, stream)` sees each line as it comes. With `passThrough` the program writes to our stdout and stderr itself and
 * `output` stays empty; with `stdoutOnly` it leaves stderr out. `timeoutMs` ends its whole process group. An interrupt ends it
 * and then this script, unless `endsWithUs` is false. Resolves with `{ code, signal, output, timedOut }`, whatever the exit code.
 */
export function run(command, args, options = {}) {
  const { cwd = root, env = process.env, passThrough = false, stdoutOnly = false, endsWithUs = true, onLine, timeoutMs } = options
  return new Promise((resolve, reject) => {
    // Its own process group, so that a timeout also ends what it started. Ctrl-C then has to be handed on.
    const child = spawn(command, args, {
      cwd,
      env,
      stdio: passThrough ? ['ignore', 'inherit', 'inherit'] : ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    const chunks = []
    const forget = endsWithUs ? stopWithUs(child) : () => {}
    let timedOut = false
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            timedOut = true
            killGroup(child, 'SIGKILL')
          }, timeoutMs)
    for (const stream of passThrough ? [] : ['stdout', 'stderr']) {
      child[stream].on('data', (chunk) => {
        if (stream === 'stdout' || !stdoutOnly) chunks.push(Buffer.from(chunk))
      })
      if (onLine) eachLine(child[stream], (line) => onLine(line, stream))
    }
    const settle = () => {
      clearTimeout(timer)
      forget()
    }
    child.on('error', (error) => {
      settle()
      reject(new Failure(`can't run ${command}: ${error.message}`))
    })
    child.on('close', (code, signal) => {
      settle()
      resolve({ code, signal, timedOut, output: Buffer.concat(chunks).toString('utf8') })
    })
  })
}

/** Like `run`, but anything except exit code 0 is a `Failure` that carries the output's last lines. */
export async function must(command, args, options = {}) {
  const result = await run(command, args, options)
  if (result.code === 0) return result
  const how = result.timedOut ? 'took too long' : result.signal ? `ended by ${result.signal}` : `exit code ${result.code}`
  const tail = result.output === '' ? '' : `\n${lastLines(result.output, 40)}`
  throw new Failure(`${[command, ...args].join(' ')}: ${how}${tail}`)
}

/** Calls `onLine` for every complete line of a stream, and for what is left at its end. */
export function eachLine(stream, onLine) {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line.replace(/\r$/, ''))
  })
  stream.on('end', () => {
    if (rest !== '') onLine(rest)
    rest = ''
  })
}

/** The last `count` lines of a text. */
export function lastLines(text, count) {
  return text.trimEnd().split('\n').slice(-count).join('\n')
}

/** Sends a signal to the process group that `child` leads; a group that is gone is no error. */
function killGroup(child, signal) {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

/** Ends `child`'s group when this script is interrupted. Returns the function that takes the promise back. */
function stopWithUs(child) {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
  const handler = () => {
    killGroup(child, 'SIGTERM')
    child.once('close', () => process.exit(130))
    // The child gets a moment to tidy up; then the script ends too.
    setTimeout(() => {
      killGroup(child, 'SIGKILL')
      process.exit(130)
    }, 3000).unref()
  }
  for (const name of signals) process.once(name, handler)
  return () => {
    for (const name of signals) process.removeListener(name, handler)
  }
}

/**
 * Runs a script's body; a `Failure` becomes its sentence on stderr and exit code 1, and an argument that `parseArgs` refuses 64.
 * With `--help` it does nothing but print the comment at the top of the script.
 */
export async function main(body) {
  if (process.argv.slice(2).some((argument) => argument === '--help' || argument === '-h')) {
    process.stdout.write(`${topComment(readFileSync(process.argv[1], 'utf8'))}\n`)
    return
  }
  try {
    process.exitCode = (await body()) ?? process.exitCode ?? 0
  } catch (error) {
    const isUsage = String(error.code).startsWith('ERR_PARSE_ARGS')
    if (!(error instanceof Failure) && !isUsage) throw error
    say(isUsage ? `${error.message} (--help tells what there is)` : error.message)
    process.exitCode = isUsage ? 64 : 1
  }
}

/** What a gate that runs by itself says: its sentences on stdout. Returns the exit code, 1 where there is one. */
export function report(findings) {
  for (const finding of findings) console.log(finding)
  return findings.length === 0 ? 0 : 1
}

/** A file or folder of the command line, as whole path. npm runs us in the root, and says in INIT_CWD where its own caller is. */
export function callersPath(path) {
  const cwd = process.cwd()
  return resolve(cwd === root ? (process.env.INIT_CWD ?? cwd) : cwd, path)
}

/** The `//` lines that a source text begins with, without their slashes. */
function topComment(source) {
  const lines = source.split('\n')
  const end = lines.findIndex((line) => !line.startsWith('//'))
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^\/\/ ?/, ''))
    .join('\n')
}

/** True when `url` (an `import.meta.url`) is the script that node was asked to run. */
export function isMain(url) {
  return process.argv[1] !== undefined && fileURLToPath(url) === process.argv[1]
}
