/** The control socket of a running role: one JSON request a line, one JSON answer a line. */
import { chmodSync, lstatSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs'
import { type Server, type Socket, connect, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { isObject } from '../arguments.js'
import { ZtnaError, configError, fromNative } from '../errors.js'
import { native } from '../native.js'
import { UsageError, fileError } from './exit.js'

export interface Request {
  readonly cmd: string
  readonly [field: string]: unknown
}

/** Longest request, bytes: names and numbers only. */
const REQUEST_MAX = 65_536
/** Longest path of a unix socket, bytes: `sun_path` of sockaddr_un without the NUL, of 108 on Linux and 104 on macOS. */
const PATH_MAX = process.platform === 'darwin' ? 103 : 107
const REMEDY = 'choose another --control PATH'

/** `/run/ztna` as root, else `$XDG_RUNTIME_DIR/ztna`; undefined when there is none. */
export function runtimeDir(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  if (process.getuid?.() === 0) return '/run/ztna'
  const base = environment['XDG_RUNTIME_DIR']
  return base ? join(base, 'ztna') : undefined
}

/** Removes the socket of a process that is gone, and nothing that is not a socket. */
function removeDead(path: string): void {
  try {
    if (!lstatSync(path).isSocket()) throw configError(`control socket ${path}: a file that is no socket is there; ${REMEDY}`)
    unlinkSync(path)
  } catch (error) {
    if (error instanceof ZtnaError) throw error
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw unusable(path, error)
  }
}

/** Listens at `path` (0600), replacing a dead process's socket. Errors: ERR_ZTNA_CONFIG and ERR_ZTNA_PERMISSION, such as when a live one answers there. */
export async function serveControl(path: string, answer: (request: Request) => Promise<unknown>): Promise<{ close: () => void }> {
  const bytes = Buffer.byteLength(path)
  // Node would bind at as much of it as fits.
  if (bytes > PATH_MAX) throw configError(`control socket ${path}: ${bytes} bytes, and the system takes ${PATH_MAX}; ${REMEDY}`)
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  } catch (error) {
    throw unusable(path, error)
  }
  if (await isAlive(path)) {
    throw configError(`control socket ${path}: another process answers there; stop it, or give this one --control PATH`)
  }
  removeDead(path)
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.once('close', () => open.delete(socket)).on('error', () => {})
    if (mayControl(socket)) converse(socket, answer)
    else socket.destroy()
  })
  await listen(server, path)
  return {
    close() {
      server.close()
      for (const socket of open) socket.destroy()
    },
  }
}

/** Asks the role at `path`. Errors: ERR_ZTNA_UNREACHABLE when nobody listens, and the role's own. */
export function ask(path: string, request: Request): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => socket.write(`${JSON.stringify(request)}\n`))
    let text = ''
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => (text += chunk))
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const code = error.code === 'EACCES' ? 'ERR_ZTNA_PERMISSION' : 'ERR_ZTNA_UNREACHABLE'
      reject(new ZtnaError(code, `control socket ${path}: ${error.message}`))
    })
    socket.once('close', () => {
      try {
        const reply = JSON.parse(text) as { ok: boolean; result?: unknown; error?: unknown }
        if (reply.ok) resolve(reply.result)
        else reject(fromNative(reply.error))
      } catch {
        reject(new ZtnaError('ERR_ZTNA_PERMISSION', `control socket ${path}: closed without an answer`))
      }
    })
  })
}

/** The sole running role's socket. Errors: UsageError when several run, ERR_ZTNA_UNREACHABLE when none does. */
export async function findControl(want: { control?: string; role?: string; name?: string }): Promise<string> {
  if (want.control !== undefined) return want.control
  const dir = runtimeDir()
  if (dir === undefined) throw new UsageError('XDG_RUNTIME_DIR is not set: give --control PATH')
  let files: string[] = []
  try {
    files = readdirSync(dir)
  } catch {
    // No directory: no role has run.
  }
  const roles = files.flatMap((file) => {
    const [, role, name] = /^(agent|connector|relay)-(.+)\.sock$/.exec(file) ?? []
    return role === undefined || name === undefined ? [] : [{ file, role, name }]
  })
  const alive = (await Promise.all(roles.map(async (role) => ((await isAlive(join(dir, role.file))) ? [role] : [])))).flat()
  const wanted = alive.filter(({ role, name }) => (want.role ?? role) === role && (want.name ?? name) === name)
  const [first, ...others] = wanted.map(({ file }) => file).sort()
  if (first === undefined) {
    const what = [want.role ?? 'role', ...(want.name === undefined ? [] : [`named "${want.name}"`])].join(' ')
    const others = alive.map(({ role, name }) => `${role} ${name}`).sort()
    const known = others.length === 0 ? 'no role runs there' : `running: ${others.join(', ')}`
    throw new ZtnaError('ERR_ZTNA_UNREACHABLE', `no running ${what} found in ${dir}; ${known}`)
  }
  if (others.length > 0) throw new UsageError(`several roles run (${[first, ...others].join(', ')}): give --role, --name or --control`)
  return join(dir, first)
}

async function listen(server: Server, path: string): Promise<void> {
  // Binding happens within listen(), so the mask holds for the socket file and for nothing else.
  const before = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(unusable(path, error)))
      server.listen(path, resolve)
      process.umask(before)
    })
    chmodSync(path, 0o600)
  } catch (error) {
    server.close()
    throw error
  } finally {
    process.umask(before)
  }
}

const unusable = (path: string, error: unknown): ZtnaError => fileError(`control socket ${path}`, error, REMEDY)

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

// The file's mode keeps others out already; this holds even where a mode was changed.
function mayControl(socket: Socket): boolean {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd
  if (fd === undefined || fd < 0) return false
  const uid = native().peerUid(fd)
  return uid === 0 || uid === process.getuid?.()
}

function converse(socket: Socket, answer: (request: Request) => Promise<unknown>): void {
  let text = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => {
    text += chunk
    const end = text.indexOf('\n')
    if (end < 0) return text.length > REQUEST_MAX ? void socket.destroy() : undefined
    socket.removeAllListeners('data')
    reply(text.slice(0, end), answer).then(
      (line) => socket.end(`${line}\n`),
      () => socket.destroy(),
    )
  })
}

async function reply(line: string, answer: (request: Request) => Promise<unknown>): Promise<string> {
  try {
    return JSON.stringify({ ok: true, result: await answer(parseRequest(line)) })
  } catch (error) {
    return JSON.stringify({ ok: false, error: fromNative(error).toJSON() })
  }
}

function parseRequest(line: string): Request {
  let request: unknown
  try {
    request = JSON.parse(line)
  } catch {
    // Told below, like anything else that is no request.
  }
  if (isObject(request) && 'cmd' in request && typeof request.cmd === 'string') return request as Request
  throw configError('a request is one line of JSON, such as {"cmd":"status"}')
}
