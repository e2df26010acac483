// The dependency gate that needs no extra tool: what may not be in Cargo.lock, and which licences may be linked.
// deny.toml says the same, and more, to cargo-deny, which CI runs.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Failure, isMain, main, must, report, root } from './lib/process.mjs'

/** Permissive licences only: their terms are met by the notices that ship with the package. Same list as deny.toml. */
export const allowed = new Set([
  '0BSD',
  'Apache-2.0',
  'Apache-2.0 WITH LLVM-exception',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'CC0-1.0',
  'ISC',
  'MIT',
  'MIT-0',
  'Unicode-3.0',
  'Unlicense',
  'Zlib',
])

/** Crates that must not come in: a second TLS library would bring a second set of keys, bugs and symbols. */
const banned = ['openssl', 'openssl-sys', 'native-tls', 'aws-lc-sys']

/** Returns one sentence for each thing that is wrong. */
export async function deny() {
  const lock = await readFile(join(root, 'Cargo.lock'), 'utf8')
  const names = [...lock.matchAll(/^\[\[package\]\]\nname = "([^"]+)"/gm)].map((match) => match[1])
  const findings = banned.filter((name) => names.includes(name)).map((name) => `Cargo.lock: ${name} must not be a dependency`)
  const borings = names.filter((name) => name === 'boring-sys').length
  if (borings !== 1) findings.push(`Cargo.lock: exactly one boring-sys is wanted, there are ${borings}`)

  const args = ['metadata', '--format-version', '1', '--locked', '--filter-platform', await hostTriple()]
  const metadata = JSON.parse((await must('cargo', args, { stdoutOnly: true })).output)
  for (const { name, version, license, source } of metadata.packages) {
    const at = `${name} ${version}`
    if (license === null) findings.push(`${at}: no licence is stated`)
    else if (!permits(license)) findings.push(`${at}: licence ${license} is not on the list`)
    if (source !== null && !source.startsWith('registry+')) findings.push(`${at}: comes from ${source}, not from the registry`)
  }
  return findings
}

/** True when an SPDX expression can be met with allowed licences alone. `/` is the old way to write OR. */
export function permits(expression) {
  const tokens = expression.replaceAll('/', ' OR ').match(/\(|\)|[^\s()]+/g) ?? []
  let position = 0
  const either = () => {
    let result = both()
    while (tokens[position] === 'OR') {
      position += 1
      const next = both()
      result = result || next
    }
    return result
  }
  const both = () => {
    let result = one()
    while (tokens[position] === 'AND') {
      position += 1
      const next = one()
      result = result && next
    }
    return result
  }
  const one = () => {
    const token = tokens[position++]
    if (token === '(') {
      const result = either()
      return tokens[position++] === ')' && result
    }
    if (tokens[position] !== 'WITH') return allowed.has(token)
    position += 2
    return allowed.has(`${token} WITH ${tokens[position - 1]}`)
  }
  return either() && position === tokens.length
}

async function hostTriple() {
  const { output } = await must('rustc', ['-vV'])
  const triple = /^host: (.+)$/m.exec(output)?.[1]
  if (triple === undefined) throw new Failure('rustc -vV names no host')
  return triple
}

if (isMain(import.meta.url)) {
  await main(async () => report(await deny()))
}
