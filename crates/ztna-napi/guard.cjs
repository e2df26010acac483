// What stands between a caller and the addon: every argument is looked at before native code sees it, and whatever native code throws
// comes out in the one shape of index.d.ts. Also a caller from plain JavaScript then learns which argument is wrong, and why.
'use strict'

const { types } = require('node:util')

/** Longer texts are no options: a network of 100,000 nodes is a tenth of it. UTF-16 units. */
const MAX_TEXT = 64 * 1024 * 1024
/** The longest name there is has 255. UTF-16 units. */
const MAX_NAME = 255
/** Of the header in front of each datagram that `recv` fills in, and its first byte. */
const MIN_ROOM = 3

const text = {
  accepted: `a string of at most ${MAX_TEXT} characters`,
  is: (value) => typeof value === 'string' && value.length <= MAX_TEXT,
}
/** Of nodes, commands and the like. */
const name = {
  accepted: `a string of at most ${MAX_NAME} characters`,
  is: (value) => typeof value === 'string' && value.length <= MAX_NAME,
}
const flag = { accepted: 'true or false', is: (value) => typeof value === 'boolean' }
const callback = { accepted: 'a function', is: (value) => typeof value === 'function' }
const whole = (most) => ({
  accepted: `a whole number from 0 to ${most}`,
  is: (value) => Number.isInteger(value) && value >= 0 && value <= most,
})
/** Of operations, flows, forwards and served services. */
const number = whole(Number.MAX_SAFE_INTEGER)
const milliseconds = whole(0xffff_ffff)
const descriptor = whole(0x7fff_ffff)
const datagrams = {
  accepted: 'an array of Uint8Array, none of them detached or on shared memory',
  is: (value) => Array.isArray(value) && value.every(isOwnBytes),
}
const room = {
  accepted: `a Uint8Array of at least ${MIN_ROOM} bytes, neither detached nor on shared memory`,
  is: (value) => isOwnBytes(value) && value.length >= MIN_ROOM,
}

/** Bytes that nobody changes while native code reads them. A detached array has lost them, and looks like an empty one. */
function isOwnBytes(value) {
  if (!types.isUint8Array(value)) return false
  const { buffer } = value
  if (!(buffer instanceof ArrayBuffer) && !types.isArrayBuffer(buffer)) return false
  return value.length > 0 || !isDetached(buffer)
}

function isDetached(buffer) {
  try {
    buffer.slice(0, 0)
    return false
  } catch {
    return true
  }
}

/** What each function and method takes, in order. `new`: the constructor; without it, only native code makes instances. */
const FUNCTIONS = {
  pki: { command: name, json: text },
  policyCheck: { json: text },
  peerUid: { fd: descriptor },
  sdNotify: { state: text },
  version: {},
}
const CLASSES = {
  NativeRole: {
    new: { role: name, optionsJson: text, onEvent: callback },
    start: {},
    close: { drainMs: milliseconds },
    status: {},
    metrics: {},
    flows: {},
    turn: {},
    reload: {},
    update: { filesJson: text },
    connect: { op: number, json: text },
    datagram: { op: number, json: text },
    cancel: { op: number },
    ping: { op: number, json: text },
    explain: { op: number, json: text },
    check: { op: number, json: text },
    forward: { json: text },
    forwardConnections: { id: number },
    forwardClose: { id: number },
    serve: { json: text },
    serveConnections: { id: number },
    unserve: { id: number, drainMs: milliseconds },
    takeDatagram: { flow: number },
    authorizeReply: { flow: number, allow: flag },
    flowReset: { flow: number },
    flowDone: { flow: number },
    kick: { session: name },
  },
  NativeDatagram: {
    send: { buffers: datagrams },
    recv: { into: room },
    onReadable: { callback },
    dropped: {},
    close: {},
  },
  NativeLog: {
    new: { level: name, onLines: callback },
    setLevel: { level: name },
    take: {},
    close: {},
  },
  NativeTestNetwork: {
    new: { specJson: text },
    addresses: { name },
    change: { changeJson: text },
    close: {},
  },
}

/** The addon's exports behind the guard. What the tables do not name is not let through. */
exports.guarded = function guarded(native) {
  const module = {}
  for (const [name, parameters] of Object.entries(FUNCTIONS)) module[name] = guardedCall(native[name], name, parameters)
  for (const [name, methods] of Object.entries(CLASSES)) module[name] = guardedClass(native[name], name, methods)
  return module
}

/** The shape of every native error (index.d.ts). */
exports.failure = failure
function failure(code, message, details = {}) {
  return new Error(JSON.stringify({ code, message, retryable: false, details }))
}

function guardedClass(original, name, { new: parameters, ...methods }) {
  const check = parameters === undefined ? undefined : checkOf(`new ${name}`, parameters)
  function guard(...given) {
    if (check === undefined) throw notAccepted(name, 'new', 'only a role makes one')
    if (new.target === undefined) throw notAccepted(name, 'this', 'call it with `new`')
    check(given)
    try {
      return Reflect.construct(original, given, new.target)
    } catch (error) {
      throw shapeOf(`new ${name}`, error)
    }
  }
  const { prototype } = original
  for (const [key, property] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    const what = `${name}.${key}`
    if (key === 'constructor') property.value = guard
    else if (property.get !== undefined) property.get = guardedCall(property.get, what, {})
    else if (methods[key] === undefined) throw failure('ERR_ZTNA_NATIVE', `${what} is not of this version`)
    else property.value = guardedCall(property.value, what, methods[key])
    Object.defineProperty(prototype, key, property)
  }
  Object.defineProperties(guard, { name: { value: name }, prototype: { value: prototype, writable: false } })
  return guard
}

function guardedCall(original, what, parameters) {
  if (typeof original !== 'function') throw failure('ERR_ZTNA_NATIVE', `${what} is not of this version`)
  const check = checkOf(what, parameters)
  return function (...given) {
    check(given)
    try {
      return Reflect.apply(original, this, given)
    } catch (error) {
      throw shapeOf(what, error)
    }
  }
}

function checkOf(what, parameters) {
  const rules = Object.entries(parameters)
  return (given) => {
    for (let at = 0; at < rules.length; at++) {
      const [name, { accepted, is }] = rules[at]
      if (!holds(is, given[at])) throw notAccepted(what, name, `${show(given[at])} is not accepted; ${accepted}`)
    }
    // The binding looks at no more.
    given.length = rules.length
  }
}

/** A proxy may throw at any look. */
function holds(is, value) {
  try {
    return is(value)
  } catch {
    return false
  }
}

function shapeOf(what, error) {
  // The binding's own: a caller's mistake that no rule of ours has found, such as a method on something that is no instance.
  if (error instanceof TypeError || /Expected$|^InvalidArg$/.test(error.code)) return notAccepted(what, 'this', error.message)
  return error.message.startsWith('{') ? error : failure('ERR_ZTNA_NATIVE', `${what}: ${error.message}`)
}

function notAccepted(what, name, why) {
  return failure('ERR_ZTNA_CONFIG', `${what}: ${name}: ${why}`, { at: name })
}

/** A value for people. Runs no code of the value's. */
function show(value) {
  if (typeof value === 'string') return value.length > 40 ? `a string of ${value.length} characters` : JSON.stringify(value)
  if (typeof value === 'object') return value === null ? 'null' : 'an object'
  if (typeof value === 'bigint') return 'a BigInt'
  return typeof value === 'symbol' || typeof value === 'function' ? `a ${typeof value}` : String(value)
}
