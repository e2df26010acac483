/** Results as a person reads them: names and values in two columns, lists of things as tables, dates in words. */
import type { PathExplanation } from '../explain.js'
import type { FlowStatus } from '../flow-list.js'
import { type Paint, describeBytes, toneOfPath, toneOfState, unpainted } from './style.js'

type Fields = Readonly<Record<string, unknown>>

/** Lines for a result object. Empty values are left out; `now` (ms since the epoch) is what dates are told against. */
export function describe(value: Fields, now: number = Date.now(), paint: Paint = unpainted): string {
  return lines(value, now, paint).join('\n')
}

/** Flows that `ztna status` names to a person. */
const FLOWS_SHOWN = 20

/** The answer of `ztna status`: the oldest flows, and how many more there are. */
export function describeStatus(status: Fields, paint: Paint, now: number = Date.now()): string {
  const { outage } = status
  // What else it holds stands with the relays.
  const { flows, flowsOmitted, ...rest } = isFields(outage) ? { ...status, outage: outage['message'] } : status
  if (!Array.isArray(flows)) return describe(rest, now, paint)
  const shown = (flows as readonly Parameters<typeof compact>[0][]).slice(0, FLOWS_SHOWN).map((flow) => compact(flow, now))
  const more = flows.length - shown.length + Number(flowsOmitted ?? 0)
  const text = describe({ ...rest, flows: shown }, now, paint)
  return more === 0 ? text : `${text}\n  ${paint('faint', `and ${more} more: ztna top, or ztna status --json`)}`
}

/** A flow in a line of a table. */
function compact(flow: Omit<FlowStatus, 'since'> & { readonly since: string }, now: number): Fields {
  const { id, service, port, protocol, peer, open, path, relay, rxBytes, txBytes, since } = flow
  const target = port === undefined ? service : `${service}:${port}`
  const way = relay === undefined ? path : `${path} ${relay}`
  return {
    id,
    service: `${target}/${protocol}`,
    peer,
    path: open ? way : 'opening',
    received: describeBytes(rxBytes),
    sent: describeBytes(txBytes),
    for: about(now - Date.parse(since)),
  }
}

/** `2026-11-23 09:00:00 UTC, in 23 h`. */
function describeDate(ms: number, now: number = Date.now()): string {
  const date = new Date(ms).toISOString()
  const distance = about(ms - now)
  return `${date.slice(0, 10)} ${date.slice(11, 19)} UTC, ${ms >= now ? `in ${distance}` : `${distance} ago`}`
}

function about(ms: number): string {
  const distance = Math.abs(ms) / 1_000
  const [size, unit] = UNITS.find(([seconds]) => distance >= seconds * 2) ?? [1, 's']
  return `${Math.round(distance / size)} ${unit}`
}

const UNITS = [
  [86_400, 'days'],
  [3_600, 'h'],
  [60, 'min'],
] as const
const DATES: ReadonlySet<string> = new Set(['expiresAt', 'since', 'folderUnreadableSince', 'revokedAt', 'notAfter', 'notBefore'])
const BAD_NEWS: ReadonlySet<string> = new Set(['detail', 'outage', 'folderUnreadableSince'])
const LABELS: Readonly<Record<string, string>> = { rttMs: 'round trip', out: 'folder', ok: 'valid', policyId: 'policy' }

function lines(value: Fields, now: number, paint: Paint): string[] {
  const shown = Object.entries(value).filter(([, item]) => !isEmpty(item))
  const width = Math.max(0, ...shown.map(([key]) => label(key).length)) + 2
  return shown.flatMap(([key, item]) => {
    const title = paint('title', label(key))
    if (isTable(item)) return [title].concat(table(item, now, paint).map((line) => `  ${line}`))
    if (isSentences(item)) return [title].concat(item.map((line) => `  ${line}`))
    if (isFields(item) && !isPath(item)) return [title].concat(lines(item, now, paint).map((line) => `  ${line}`))
    return [`${title}${' '.repeat(width - label(key).length)}${toned(key, item, text(key, item, now), paint)}`]
  })
}

function table(rows: readonly Fields[], now: number, paint: Paint): string[] {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => rows.some((row) => !isEmpty(row[key])))
  const cells = rows.map((row) => keys.map((key) => (isEmpty(row[key]) ? '-' : text(key, row[key], now))))
  const head = keys.map((key) => label(key))
  const widths = head.map((title, at) => Math.max(title.length, ...cells.map((row) => row[at]?.length ?? 0)))
  const line = (row: readonly string[], painted: (cell: string, at: number) => string): string => {
    const last = row.length - 1
    return row.map((cell, at) => painted(cell, at) + (at === last ? '' : ' '.repeat((widths[at] ?? 0) - cell.length + 2))).join('')
  }
  return [
    line(head, (cell) => paint('faint', cell)),
    ...cells.map((row, index) => line(row, (cell, at) => toned(keys[at] ?? '', rows[index]?.[keys[at] ?? ''], cell, paint))),
  ]
}

/** What a value says of how things are, as a colour. */
function toned(key: string, value: unknown, shown: string, paint: Paint): string {
  if (shown === '-') return paint('faint', shown)
  if (key === 'state' && typeof value === 'string') return paint(toneOfState(value), shown)
  if (key === 'path') return paint(toneOfPath(isPath(value) ? String(value['kind']) : shown.replace(/ .*/, '')), shown)
  return BAD_NEWS.has(key) ? paint('bad', shown) : shown
}

function text(key: string, value: unknown, now: number): string {
  if (DATES.has(key)) return describeDate(typeof value === 'number' ? value : Date.parse(String(value)), now)
  if (key.endsWith('Ms') && typeof value === 'number') return `${value.toFixed(2)} ms`
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (Array.isArray(value)) return value.map((item) => text('', item, now)).join(', ')
  if (isPath(value)) return describePath(value)
  if (!isFields(value)) return String(value)
  return Object.entries(value)
    .filter(([, item]) => !isEmpty(item))
    .map(([name, item]) => `${label(name)} ${text(name, item, now)}`)
    .join(', ')
}

/** `relay r1, 0.78 ms`. */
function describePath(path: Fields): string {
  const { kind, relay } = path
  const by = kind === 'relay' && typeof relay === 'string' ? `relay ${relay}` : String(kind)
  return `${by}, ${Number(path['rttMs']).toFixed(2)} ms`
}

/** The answer of `ztna explain`. */
export function explainPath(service: string, { path, demand, reasons, nat, portMapping, checks }: PathExplanation): string {
  const way = path.kind === 'none' ? 'no path' : `${describePath({ ...path })}${path.remote === undefined ? '' : `, ${path.remote}`}`
  const lines = [`${service}: ${way}`]
  if (demand !== undefined) lines.push(demand.detail)
  for (const { code, detail, remedy } of reasons) {
    lines.push(`not direct: ${detail} (${code})`)
    if (remedy !== undefined) lines.push(`  what helps: ${remedy}`)
  }
  lines.push(`NAT here: ${nat.local}; NAT there: ${nat.remote}`)
  lines.push(portMapping.detail)
  for (const { local, remote, via, result, rttMs } of checks) {
    lines.push(`tried ${via} ${local} -> ${remote}: ${result}${rttMs === undefined ? '' : `, ${rttMs.toFixed(2)} ms`}`)
  }
  return lines.join('\n')
}

function label(key: string): string {
  return LABELS[key] ?? key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
}

function isEmpty(value: unknown): boolean {
  return value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isPath(value: unknown): value is Fields {
  return isFields(value) && 'kind' in value && 'rttMs' in value
}

function isTable(value: unknown): value is readonly Fields[] {
  return Array.isArray(value) && value.length > 0 && value.every(isFields)
}

// Words with spaces between them read badly in one line.
function isSentences(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.some((item) => typeof item === 'string' && item.includes(' '))
}
