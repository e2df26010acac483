/** Test fixture: the native boundary in this process. Descriptors are real sockets; everything else is scripted by the test. */
import { type Socket, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { ZtnaAgent, type ZtnaUdpSocket } from '../src/index.js'
import { type NativeDatagram, type NativeFlow, type NativeModule, type NativeRole, setNative } from '../src/native.js'
import { tempDir } from './temp.js'

export const PEER = {
  id: 'spiffe://example.test/connector/c1',
  role: 'connector',
  name: 'c1',
  groups: [],
  serial: '01',
  expiresAt: Date.UTC(2030, 0),
}
export const PATH = { kind: 'relay', local: null, remote: null, relay: 'r1', rttMs: 2, mtu: 1320, lossPct: 0, since: 1 }
export const INFO = { peer: PEER, service: 'db', port: 5432, path: PATH, connection: 1, remoteAddress: 'fd00::7', remotePort: 9 }
export const CONTENT = {
  certPem: 'c',
  keyPem: 'k',
  caPem: 'a',
  network: {
    trustDomain: 'example.test',
    zone: 'ztna.internal',
    relays: [],
    services: [{ name: 'db', connectors: ['c1'], tcp: [5432] }],
  },
}

export function nativeError(code: string, message: string, details: object = {}): Error {
  return new Error(JSON.stringify({ code, message, retryable: false, details }))
}

// The handles whose descriptors were given away: collected, they would close them.
const parked: unknown[] = []

/** Two connected stream sockets: a bare descriptor, as native hands over, and the far end. */
export async function socketPair(): Promise<{ fd: number; far: Socket }> {
  const path = join(tempDir(), 's')
  const server = createServer({ allowHalfOpen: true })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
  const near = connect({ path, readable: false } as never) as Socket & {
    _handle: { fd: number; readStop(): void } | null
  }
  await new Promise<void>((resolve) => near.once('connect', resolve))
  const far = await accepted
  server.close()
  const handle = near._handle
  if (handle === null) throw new Error('no handle')
  handle.readStop()
  parked.push(handle, near)
  near._handle = null
  return { fd: handle.fd, far }
}

/** What a stream delivers until its end; unlike async iteration this leaves the other direction open. */
export function readAll(stream: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = ''
    stream.on('data', (chunk: Buffer) => (text += chunk.toString()))
    stream.once('end', () => resolve(text)).once('error', () => resolve(text))
  })
}

export class FakeRole implements NativeRole {
  static last: FakeRole
  static made = 0
  readonly options: Record<string, unknown>
  readonly calls: [name: string, ...args: unknown[]][] = []
  onStart: () => Promise<void> = async () => this.emit({ event: 'state', next: 'online', prev: 'starting', reason: '' })
  onConnect: (op: number) => Promise<NativeFlow> = () => Promise.reject(nativeError('ERR_ZTNA_REFUSED', 'refused'))
  nextDatagram: NativeDatagram | undefined

  constructor(
    readonly role: string,
    optionsJson: string,
    private readonly onEvent: (json: string) => void,
  ) {
    this.options = JSON.parse(optionsJson) as Record<string, unknown>
    FakeRole.last = this
    FakeRole.made += 1
    FakeRole.prepare(this)
  }

  static prepare: (role: FakeRole) => void = () => {}

  emit(event: object): void {
    this.onEvent(JSON.stringify(event))
  }
  async start(): Promise<string> {
    await this.onStart()
    return JSON.stringify({ identity: { ...PEER, role: this.role, name: 'me' }, listen: ['127.0.0.1:4433'] })
  }
  async close(drainMs: number): Promise<void> {
    this.calls.push(['close', drainMs])
  }
  status(): string {
    return JSON.stringify({
      state: 'online',
      stats: { rxBytes: 1, txBytes: 2, flows: { tcp: 0, udp: 0 }, paths: { c1: PATH } },
    })
  }
  flows(): string {
    return JSON.stringify({ flows: [], more: 0 })
  }
  metrics(): string {
    return '# EOF\n'
  }
  /** Whether the data plane hangs. */
  hangs = false
  turn(): void {
    if (!this.hangs) this.emit({ event: 'turned' })
  }
  async reload(): Promise<string> {
    return JSON.stringify({ version: 2, changed: true })
  }
  async update(filesJson: string): Promise<void> {
    this.calls.push(['update', JSON.parse(filesJson)])
  }
  connect(op: number, json: string): Promise<NativeFlow> {
    this.calls.push(['connect', JSON.parse(json)])
    return this.onConnect(op)
  }
  async datagram(): Promise<NativeDatagram> {
    if (this.nextDatagram === undefined) throw nativeError('ERR_ZTNA_UNREACHABLE', 'nobody')
    return this.nextDatagram
  }
  cancel(op: number): void {
    this.calls.push(['cancel', op])
  }
  async ping(): Promise<string> {
    return JSON.stringify({ rttMs: 3, path: PATH })
  }
  async explain(): Promise<string> {
    const check = { local: 'this end', remote: '192.0.2.9:7', via: 'srflx', result: 'timeout', rttMs: null, at: 1 }
    const reasons = [{ code: 'check-timeout', detail: 'none has answered', remedy: null }]
    const portMapping = { state: 'failed', protocol: null, external: null, detail: 'the router gave no port: PCP: no answer' }
    return JSON.stringify({ path: PATH, demand: null, reasons, nat: { local: 'none', remote: 'unknown' }, portMapping, checks: [check] })
  }
  async check(): Promise<string> {
    return JSON.stringify({ allowed: false, by: 'connector', policyId: null, reason: 'no policy permits', path: null })
  }
  async forward(json: string): Promise<string> {
    this.calls.push(['forward', JSON.parse(json)])
    return JSON.stringify({ id: 1, address: { address: '127.0.0.1', port: 8080, family: 'IPv4' } })
  }
  forwardConnections(): number {
    return 3
  }
  async forwardClose(id: number): Promise<void> {
    this.calls.push(['forwardClose', id])
  }
  async serve(json: string): Promise<number> {
    this.calls.push(['serve', JSON.parse(json)])
    return 7
  }
  serveConnections(): number {
    return 2
  }
  async unserve(id: number, drainMs: number): Promise<void> {
    this.calls.push(['unserve', id, drainMs])
  }
  takeDatagram(): NativeDatagram {
    if (this.nextDatagram === undefined) throw nativeError('ERR_ZTNA_CLOSED', 'gone')
    return this.nextDatagram
  }
  authorizeReply(flow: number, allow: boolean): void {
    this.calls.push(['authorizeReply', flow, allow])
  }
  flowReset(flow: number): void {
    this.calls.push(['flowReset', flow])
  }
  flowDone(flow: number): void {
    this.calls.push(['flowDone', flow])
  }
  kick(session: string): void {
    this.calls.push(['kick', session])
  }
}

/** A UDP flow whose messages the test puts in. */
export class FakeDatagram implements NativeDatagram {
  readonly infoJson: string
  readonly maxDatagramSize = 1200
  readonly queue: Uint8Array[] = []
  readonly sent: Uint8Array[] = []
  /** Calls of `send`, and how many more messages it has room for. */
  sends = 0
  room = Infinity
  lost = 0
  closed = false
  #ring: () => void = () => {}

  constructor(
    readonly flow = 5,
    info: object = {},
  ) {
    this.infoJson = JSON.stringify({ ...INFO, ...info })
  }

  /** What arrives before JavaScript is told of it. */
  put(...messages: readonly string[]): void {
    this.queue.push(...messages.map((message) => Buffer.from(message)))
    this.#ring()
  }
  send(buffers: Uint8Array[]): number {
    this.sends += 1
    const wrong = buffers.findIndex(({ length }, n) => length > this.maxDatagramSize || n >= this.room)
    const taken = wrong < 0 ? buffers.length : wrong
    // As native does, which sends long after the caller has used its buffers for something else.
    this.sent.push(...buffers.slice(0, taken).map((each) => Buffer.from(each)))
    this.room -= taken
    this.lost += buffers.length - taken
    return taken
  }
  recv(into: Uint8Array): number {
    const view = Buffer.from(into.buffer, into.byteOffset, into.byteLength)
    let at = 0
    for (let next = this.queue[0]; next !== undefined && at + 2 + next.length <= view.length; next = this.queue[0]) {
      this.queue.shift()
      at = view.writeUInt16LE(next.length, at)
      view.set(next, at)
      at += next.length
    }
    return at
  }
  dropped(): number {
    return this.lost
  }
  close(): void {
    this.closed = true
  }
  onReadable(callback: () => void): void {
    this.#ring = callback
  }
}

/** Has nothing to say. */
class FakeLog {
  take(): string {
    return '[]'
  }
  setLevel(): void {}
  close(): void {}
}

/** Builds nothing. */
class FakeTestNetwork {
  readonly id = 1
  addresses(): string {
    return '["192.0.2.1"]'
  }
  change(): void {}
  close(): void {}
}

/** What was said to systemd since the last `useFake`. */
export const told: string[] = []

/** Puts the fake in the addon's place; `prepare` scripts each role as it is made. */
export function useFake(prepare: (role: FakeRole) => void = () => {}): void {
  FakeRole.prepare = prepare
  FakeRole.made = 0
  told.length = 0
  const module: NativeModule = {
    NativeLog: FakeLog,
    NativeRole: FakeRole,
    NativeTestNetwork: FakeTestNetwork,
    pki: () => '{}',
    policyCheck: () => '{"ok":true,"findings":[]}',
    peerUid: () => process.getuid?.() ?? 0,
    sdNotify: (state) => told.push(state) > 0,
    version: () => '0.1.0',
  }
  setNative(module)
}

/** A started agent and a UDP flow of its to the service `db`, with the native side of that flow. The test closes the agent. */
export async function openDatagram(): Promise<{ readonly agent: ZtnaAgent; readonly native: FakeDatagram; readonly udp: ZtnaUdpSocket }> {
  useFake()
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  const native = new FakeDatagram()
  FakeRole.last.nextDatagram = native
  return { agent, native, udp: await agent.datagram('db') }
}
