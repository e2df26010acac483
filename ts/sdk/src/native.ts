/** The boundary to `@ztna/native`: what crosses it, and the one place that loads it. DTOs cross as JSON text. */
import { createRequire } from 'node:module'
import type * as addon from '@ztna/native'
import { ZtnaError, fromNative } from './errors.js'

/** One role's thread. Its methods throw or reject with an `Error` whose message is JSON (see `fromNative`). */
export type NativeRole = addon.NativeRole
/** A TCP flow: our end of a socketpair, ours to close. */
export type NativeFlow = addon.NativeFlow
/** A UDP flow: two rings and a doorbell. */
export type NativeDatagram = addon.NativeDatagram
/** Log lines of this thread's roles. */
export type NativeLog = addon.NativeLog
/** A network in memory. */
export type NativeTestNetwork = addon.NativeTestNetwork
export type PkiCommand = Parameters<typeof addon.pki>[0]

/** What the addon exports. Flows are made by a role alone, and `default` is there only when a CommonJS module is imported. */
export type NativeModule = Omit<typeof addon, 'NativeDatagram' | 'default'>

let loaded: NativeModule | undefined

/** The addon, loaded at the first call so that importing the SDK does no I/O. */
export function native(): NativeModule {
  loaded ??= createRequire(import.meta.url)('@ztna/native') as NativeModule
  return loaded
}

/** Puts another implementation of the boundary in place of the addon. */
export function setNative(implementation: NativeModule | undefined): void {
  loaded = implementation
}

/** What `call` gives. Errors: native's, as a ZtnaError. */
export function called<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw fromNative(error)
  }
}

/** What `call` gives; undefined when the role has ended meanwhile, which native knows before JavaScript hears of it. */
export function whileRunning<T>(call: () => T): T | undefined {
  try {
    return called(call)
  } catch (error) {
    if (error instanceof ZtnaError && error.code === 'ERR_ZTNA_CLOSED') return undefined
    throw error
  }
}
