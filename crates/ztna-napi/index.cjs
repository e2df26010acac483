// Finds the addon built for this machine. In a checkout it lies beside this file (scripts/build.mjs puts it there); installed
// from npm it is the one optional package that fits, `@ztna/native-<target>`.
'use strict'

// On Linux the C library is not asked for: npm installs the fitting package only, and a build makes only the fitting file.
const targets = {
  'linux-x64': ['linux-x64-gnu', 'linux-x64-musl'],
  'linux-arm64': ['linux-arm64-gnu', 'linux-arm64-musl'],
  'darwin-x64': ['darwin-x64'],
  'darwin-arm64': ['darwin-arm64'],
}

function load() {
  const platform = `${process.platform}-${process.arch}`
  const candidates = targets[platform]
  if (candidates === undefined) {
    throw failure(`there is no addon for ${platform}; there is one for ${Object.keys(targets).join(', ')}`, [])
  }
  const reasons = []
  for (const target of candidates) {
    for (const name of [`./ztna.${target}.node`, `@ztna/native-${target}`]) {
      try {
        return require(name)
      } catch (error) {
        reasons.push(`${name}: ${reasonOf(error, name)}`)
      }
    }
  }
  throw failure(
    `no addon for ${platform} could be loaded; install @ztna/sdk without --omit=optional, or run \`npm run build\` in a checkout`,
    reasons,
  )
}

/** `require` lists its whole stack in the message of a missing module: one word says as much. */
function reasonOf(error, name) {
  return error.code === 'MODULE_NOT_FOUND' && error.message.includes(name) ? 'not there' : error.message
}

/** The shape of every native error (index.d.ts), so that the SDK needs no second way to read this one. */
function failure(message, tried) {
  return new Error(JSON.stringify({ code: 'ERR_ZTNA_NATIVE', message, retryable: false, details: { tried } }))
}

const native = load()

// One by one: an ES module can import by name only what is assigned by name here.
exports.NativeRole = native.NativeRole
exports.NativeFlow = native.NativeFlow
exports.NativeDatagram = native.NativeDatagram
exports.NativeTestNetwork = native.NativeTestNetwork
exports.pki = native.pki
exports.policyCheck = native.policyCheck
exports.peerUid = native.peerUid
exports.sdNotify = native.sdNotify
exports.setLogSink = native.setLogSink
exports.version = native.version
