// Finds the addon built for this machine. In a checkout it lies beside this file (scripts/build.mjs puts it there); installed
// from npm it is the one optional package that fits, `@ztna/native-<target>`.
'use strict'

const { failure, guarded } = require('./guard.cjs')

const TARGETS = ['linux-x64-gnu', 'linux-x64-musl', 'linux-arm64-gnu', 'linux-arm64-musl', 'darwin-x64', 'darwin-arm64']

function load() {
  const target = targetOf()
  if (!TARGETS.includes(target)) {
    throw failure('ERR_ZTNA_NATIVE', `there is no addon for ${target}; there is one for ${TARGETS.join(', ')}`, { target })
  }
  const name = `@ztna/native-${target}`
  const tried = []
  let found = false
  for (const place of [`./ztna.${target}.node`, name]) {
    try {
      return require(place)
    } catch (error) {
      const absent = isAbsent(error, place)
      found ||= !absent
      tried.push(`${place}: ${absent ? 'not there' : error.message}`)
    }
  }
  const details = { target, package: name, tried }
  if (found) throw failure('ERR_ZTNA_NATIVE', `the addon for ${target} is there and can't be loaded: ${tried.join('; ')}`, details)
  const { version } = require('./package.json')
  throw failure(
    'ERR_ZTNA_NATIVE',
    `the package ${name} is not installed. \`npm install ${name}@${version}\` adds it; it is an optional dependency, which npm leaves ` +
      `out with --omit=optional and from a lock file or node_modules of another platform. In a checkout, run \`npm run build\``,
    details,
  )
}

/** The machine, as files and packages spell it. */
function targetOf() {
  const machine = `${process.platform}-${process.arch}`
  return process.platform === 'linux' ? `${machine}-${isGnu() ? 'gnu' : 'musl'}` : machine
}

/** Node's report names glibc's version where there is one. The part about networks is slow and not wanted. */
function isGnu() {
  const { report } = process
  const { excludeNetwork } = report
  try {
    report.excludeNetwork = true
    return report.getReport().header.glibcVersionRuntime !== undefined
  } finally {
    report.excludeNetwork = excludeNetwork
  }
}

/** Not there, rather than there without something that it needs. */
function isAbsent(error, name) {
  return error.code === 'MODULE_NOT_FOUND' && error.message.includes(`'${name}'`)
}

const native = guarded(load())

// One by one: an ES module can import by name only what is assigned by name here.
exports.NativeDatagram = native.NativeDatagram
exports.NativeLog = native.NativeLog
exports.NativeRole = native.NativeRole
exports.NativeTestNetwork = native.NativeTestNetwork
exports.pki = native.pki
exports.policyCheck = native.policyCheck
exports.peerUid = native.peerUid
exports.sdNotify = native.sdNotify
exports.version = native.version
