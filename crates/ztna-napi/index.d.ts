// What the addon exports. Values cross as JSON text (camelCase, `null` rather than `undefined`, times in ms since the epoch);
// bulk data crosses as file descriptors or through NativeDatagram. docs/decisions/0002 says why.
//
// Everything here throws or rejects with an `Error` whose `message` is JSON: { code, message, retryable, details }, where
// `details` may hold by, decisionId, policyId, reason and tried. `@ztna/sdk` is the only intended caller.

/** One running role. All state lives on the role's own thread; these methods hand it a command. */
export class NativeRole {
  /**
   * Does no I/O.
   * @param role 'agent', 'connector' or 'relay'
   * @param optionsJson the role's options: network (a folder, or its files' contents), listen, stunAlt, publicAddrs, loops, limits, services, authorize, testPlace
   * @param onEvent called with one JSON event at a time; does not keep the process alive
   */
  constructor(role: string, optionsJson: string, onEvent: (json: string) => void)
  /** Resolves when the identity is loaded, sockets are bound and the thread runs, which is before `online`: `{ identity, listen }`. */
  start(): Promise<string>
  /** Drains for at most `drainMs`, then ends the thread. Calling it again waits for the same end. */
  close(drainMs: number): Promise<void>
  /** `{ state, …, stats }`. */
  status(): string
  /** `{ flows, more }` of an agent or a connector: 1,000 at most, and how many more there are. A relay sees none. */
  flows(): string
  /** OpenMetrics text. */
  metrics(): string
  /** The event `turned` follows once every loop of the role has taken a turn; it does not while one hangs. */
  turn(): void
  /** Reads the network folder now: `{ version, changed }`. On rejection the old snapshot stays in force. */
  reload(): Promise<string>
  /** The same for a network held in memory. */
  update(filesJson: string): Promise<void>
  /**
   * Opens a TCP flow; resolves when the connector has answered 200.
   * @param op an id of the caller's choosing for `cancel`
   * @param json `{ service, port, path, timeoutMs, traceparent }`
   */
  connect(op: number, json: string): Promise<NativeFlow>
  /** Opens a UDP flow; arguments as for `connect`. */
  datagram(op: number, json: string): Promise<NativeDatagram>
  /** Makes the operation reject with ERR_ZTNA_ABORTED; nothing happens when it is over. */
  cancel(op: number): void
  /** `{ service, timeoutMs }` → `{ rttMs, path }`. */
  ping(op: number, json: string): Promise<string>
  explain(op: number, json: string): Promise<string>
  /** `{ service, port, protocol, timeoutMs }` → `{ allowed, by, policyId, reason }`. */
  check(op: number, json: string): Promise<string>
  /** Listens locally for a service, or as a SOCKS5 proxy: → `{ id, address }`. */
  forward(json: string): Promise<string>
  /** Connections that are open through a forward. */
  forwardConnections(id: number): number
  /** Stops listening and resets its connections. */
  forwardClose(id: number): Promise<void>
  /** Offers a service at this connector: → serve id. Without a target its flows arrive as `incoming` events. */
  serve(json: string): Promise<number>
  /** Flows of a served service that are open. */
  serveConnections(id: number): number
  /** Takes no more flows; after `drainMs` those that are open are reset. */
  unserve(id: number, drainMs: number): Promise<void>
  /** The UDP flow announced by an `incoming-datagram` event. */
  takeDatagram(flow: number): NativeDatagram
  /** Answers an `authorize` event; no answer within 5 s is a denial. */
  authorizeReply(flow: number, allow: boolean): void
  /** Resets both directions of a flow. */
  flowReset(flow: number): void
  /** Acknowledges a `flow-reset` event once the socket is destroyed; native may then free the flow. */
  flowDone(flow: number): void
  /** Ends a session of this relay. */
  kick(session: string): void
}

/** A TCP flow. Whoever wraps `fd` in a socket owns it from then on. */
export interface NativeFlow {
  readonly fd: number
  readonly flow: number
  /** `{ peer, service, port, path, remoteAddress, remotePort }` */
  readonly infoJson: string
}

/** A UDP flow. */
export class NativeDatagram {
  private constructor()
  readonly flow: number
  readonly infoJson: string
  /** Bytes of the largest datagram that fits. */
  readonly maxDatagramSize: number
  /** Returns how many of `buffers`, from the first on, were queued. */
  send(buffers: Uint8Array[]): number
  /** Whether the flow is over; what was received before can still be taken. */
  readonly closed: boolean
  /** Fills `into` with datagrams, each behind its length (16 bits, little-endian); returns the bytes filled, 0 when none waits. */
  recv(into: Uint8Array): number
  /** Called once when datagrams wait; not again before they were taken. */
  onReadable(callback: () => void): void
  /** Datagrams lost in this flow's queues so far. */
  dropped(): number
  /** Ends the flow. */
  close(): void
}

/** The log lines of the roles that this JavaScript thread started. It ends with `close`, or with the thread. */
export class NativeLog {
  /**
   * @param level of the lines to collect, and above: 'trace', 'debug', 'info', 'warn', 'error' or 'off'
   * @param onLines called when lines wait, and not again before they were taken; does not keep the process alive
   */
  constructor(level: string, onLines: () => void)
  setLevel(level: string): void
  /** All that waits: a JSON array of `{ level, target, message, fields, time }`. More than 1,024 are dropped, and counted in a line. */
  take(): string
  close(): void
}

/** A network of homes in memory, for the roles of this process whose option `testPlace` names it. */
export class NativeTestNetwork {
  /** @param specJson `{ seed, relays, homes, nodes }` (ztna_netlab::homes::Spec) */
  constructor(specJson: string)
  /** What `testPlace.network` has to be. */
  readonly id: number
  /** The addresses of a node or relay: a JSON array. */
  addresses(name: string): string
  /** `{ op, … }` (ztna_netlab::homes::Change). When it throws, nothing has changed. */
  change(changeJson: string): void
  /** Ends it; roles that still run on it receive nothing from then on. */
  close(): void
}

/** The work behind `ztna pki`, and of `ztna doctor` on folders. */
export function pki(command: 'init' | 'issue' | 'publish' | 'renew' | 'revoke' | 'rotate-ca' | 'examine', json: string): string
/** `{ dir, agent, to, protocol }` → `{ ok, findings, decision? }`. */
export function policyCheck(json: string): string
/** The user at the other end of a unix socket (SO_PEERCRED). */
export function peerUid(fd: number): number
/** Tells systemd `state` (sd_notify(3)); false when it did not ask to be told. */
export function sdNotify(state: string): boolean
/** The version of the addon. */
export function version(): string
