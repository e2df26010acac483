/** The boundary to `@ztna/native`: what crosses it, and the one place that loads it. DTOs cross as JSON text. */
import { createRequire } from 'node:module'

/** One role's thread. Its methods throw or reject with an `Error` whose message is JSON (see `fromNative`). */
export interface NativeRole {
  /** Resolves when the thread runs: identity loaded, sockets bound, not yet online. */
  start(): Promise<string>
  close(drainMs: number): Promise<void>
  status(): string
  metrics(): string
  /** The event `turned` follows once every loop has taken a turn. */
  turn(): void
  reload(): Promise<string>
  update(filesJson: string): Promise<void>
  connect(op: number, json: string): Promise<NativeFlow>
  datagram(op: number, json: string): Promise<NativeDatagram>
  /** Makes the pending call `op` reject with ERR_ZTNA_ABORTED. */
  cancel(op: number): void
  ping(op: number, json: string): Promise<string>
  check(op: number, json: string): Promise<string>
  forward(json: string): Promise<string>
  forwardConnections(id: number): number
  forwardClose(id: number): Promise<void>
  serve(json: string): Promise<number>
  serveConnections(id: number): number
  unserve(id: number, drainMs: number): Promise<void>
  takeDatagram(flow: number): NativeDatagram
  authorizeReply(flow: number, allow: boolean): void
  flowReset(flow: number): void
  flowDone(flow: number): void
  kick(session: string): void
}

/** A TCP flow: our end of a socketpair, ours to close. */
export interface NativeFlow {
  readonly fd: number
  readonly flow: number
  readonly infoJson: string
}

/** A UDP flow: two rings and a doorbell. */
export interface NativeDatagram {
  readonly flow: number
  readonly infoJson: string
  readonly maxDatagramSize: number
  /** How many of `buffers` were queued, from the first on. */
  send(buffers: Uint8Array[]): number
  /** Fills `into` with records of a two-byte little-endian length and that many bytes; 0 when there is nothing. */
  recv(into: Uint8Array): number
  dropped(): number
  close(): void
  /** The doorbell rings once after the queue was empty, until it has been drained. */
  onReadable(callback: () => void): void
}

export type PkiCommand = 'init' | 'issue' | 'publish' | 'renew' | 'revoke' | 'rotate-ca'

/** What the addon exports. */
export interface NativeModule {
  readonly NativeRole: new (role: string, optionsJson: string, onEvent: (json: string) => void) => NativeRole
  pki(command: PkiCommand, json: string): string
  policyCheck(json: string): string
  /** SO_PEERCRED of a connected unix socket. */
  peerUid(fd: number): number
  /** False when `$NOTIFY_SOCKET` is unset. */
  sdNotify(state: string): boolean
  setLogSink(level: string, callback: ((linesJson: string) => void) | null): void
  version(): string
}

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
