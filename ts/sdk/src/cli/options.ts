/** The one schema of settings: every role's flags, `ZTNA_*` variables and keys of ztna.toml come from this table. */
import { LOG_LEVELS } from '../logger.js'
import { MOST_BURST } from '../node-options.js'
import { LISTEN, MAX_LOOPS } from '../relay.js'
import { ROLES, type Role } from '../types.js'

export interface Setting {
  /** Key in ztna.toml; the flag has `-` for `_`, the variable is `ZTNA_` and upper case. */
  readonly key: string
  readonly type: 'string' | 'list' | 'number' | 'boolean'
  readonly roles: readonly Role[]
  /** Placeholder in `--help`. */
  readonly value?: string
  readonly help: string
  readonly choices?: readonly string[]
  /** Of a list: all of its items. */
  readonly fallback?: string | number | boolean | readonly string[]
  /** Smallest number that is accepted. Default 1. */
  readonly least?: number
  /** Largest. Default: none. */
  readonly most?: number
}

export const SETTINGS: readonly Setting[] = [
  {
    key: 'network',
    type: 'string',
    roles: ROLES,
    value: 'DIR',
    help: 'folder of this node, written by `ztna pki`',
  },
  {
    key: 'listen',
    type: 'list',
    roles: ['relay'],
    value: 'ADDR',
    help: 'UDP address, repeatable',
    fallback: LISTEN,
  },
  {
    key: 'stun_alt',
    type: 'string',
    roles: ['relay'],
    value: 'ADDR',
    help: 'second STUN port, such as 0.0.0.0:4434: shows nodes what their NAT does, which a single relay needs for it',
  },
  { key: 'public_addr', type: 'list', roles: ['relay'], value: 'ADDR', help: 'address to tell nodes, repeatable' },
  { key: 'loops', type: 'number', roles: ['relay'], value: 'N', help: 'event loops, 1 to 64 (default: one per core)', most: MAX_LOOPS },
  { key: 'max_sessions', type: 'number', roles: ['relay'], value: 'N', help: 'sessions at a time (default: 65536)' },
  {
    key: 'bps_per_session',
    type: 'number',
    roles: ['relay'],
    value: 'N',
    help: 'bits a second of one session (default: no limit)',
    least: 100_000,
  },
  { key: 'handshakes_per_second', type: 'number', roles: ['relay'], value: 'N', help: 'new connections a second (default: 2000)' },
  { key: 'handshakes_per_prefix', type: 'number', roles: ['relay'], value: 'N', help: 'the same of one /24 or /48 (default: 200)' },
  { key: 'retries_per_second', type: 'number', roles: ['relay'], value: 'N', help: 'first packets answered a second (default: 5000)' },
  {
    key: 'packets_per_key',
    type: 'number',
    roles: ROLES,
    value: 'N',
    help: 'packets before a connection gets a successor (default: 134217728)',
  },
  {
    key: 'segmentation_offload',
    type: 'boolean',
    roles: ROLES,
    help: 'send UDP packets one by one, for kernels that lose bursts',
    fallback: true,
  },
  {
    key: 'max_unread_bytes',
    type: 'number',
    roles: ['agent', 'connector'],
    value: 'N',
    help: 'received bytes that wait for local readers (default: 268435456)',
    least: 1_048_576,
  },
  {
    key: 'port_mapping',
    type: 'boolean',
    roles: ['agent', 'connector'],
    help: 'do not ask the router to open a port for this node',
    fallback: true,
  },
  {
    key: 'metered',
    type: 'boolean',
    roles: ['agent', 'connector'],
    help: 'bytes cost money here: no port bursts',
    fallback: false,
  },
  {
    key: 'burst_sockets',
    type: 'number',
    roles: ['agent', 'connector'],
    value: 'N',
    help: 'sockets of a port burst, 0 for none (default: 256)',
    least: 0,
    most: MOST_BURST.sockets,
  },
  {
    key: 'burst_checks',
    type: 'number',
    roles: ['agent', 'connector'],
    value: 'N',
    help: 'ports that a port burst guesses, 0 for none (default: 1024)',
    least: 0,
    most: MOST_BURST.checks,
  },
  {
    key: 'service',
    type: 'list',
    roles: ['connector'],
    value: 'SPEC',
    help: 'NAME=tcp|udp:PORT[-PORT]:HOST:PORT or NAME=tcp:PORT:unix:/PATH, repeatable',
  },
  {
    key: 'forward',
    type: 'list',
    roles: ['agent'],
    value: 'SPEC',
    help: 'tcp|udp:HOST:PORT[-PORT]=SERVICE[:PORT[-PORT]] or unix:/PATH=SERVICE[:PORT]; with ,direct-only or ,relay-only at the end; repeatable',
  },
  {
    key: 'socks5',
    type: 'string',
    roles: ['agent'],
    value: 'ADDR',
    help: 'SOCKS5 and HTTP CONNECT proxy, loopback only',
  },
  { key: 'metrics', type: 'string', roles: ROLES, value: 'ADDR', help: 'serve /metrics and /healthz (default: off)' },
  {
    key: 'control',
    type: 'string',
    roles: ROLES,
    value: 'PATH',
    help: 'control socket (default: in the runtime directory)',
  },
  {
    key: 'log_level',
    type: 'string',
    roles: ROLES,
    value: 'LEVEL',
    help: 'log level',
    choices: LOG_LEVELS,
    fallback: 'info',
  },
  {
    key: 'log_format',
    type: 'string',
    roles: ROLES,
    value: 'FORMAT',
    help: 'log format (default: pretty on a terminal)',
    choices: ['pretty', 'json'],
  },
  { key: 'json', type: 'boolean', roles: ROLES, help: 'events on standard output as JSON, one a line', fallback: false },
]

/** What is on by default has a flag that switches it off; its `help` speaks of that. */
export const isSwitchedOff = (setting: Setting): boolean => setting.type === 'boolean' && setting.fallback === true
export const flagOf = (setting: Setting, on = false): string =>
  `--${isSwitchedOff(setting) && !on ? 'no-' : ''}${setting.key.replaceAll('_', '-')}`
export const variableOf = (setting: Setting): string => `ZTNA_${setting.key.toUpperCase()}`
/** The name commander gives the flag's value. */
export const attributeOf = (setting: Setting): string => setting.key.replace(/_(.)/g, (_, c: string) => c.toUpperCase())
