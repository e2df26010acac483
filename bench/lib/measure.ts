import { cpus, release, totalmem } from 'node:os'
import { readFileSync } from 'node:fs'

/** What is to be reached: a figure of the row, by its unit, and on which side of which value it has to be. */
export type Bar = readonly [figure: string, side: '>=' | '<=', limit: number]

export interface Row {
  /** What was measured. */
  readonly name: string
  /** The figures, with their unit in the key. */
  readonly values: Readonly<Record<string, number>>
  /** What is to be reached, in words; absent for rows that are there to compare with. */
  readonly bar?: string
  /** Whether it was; absent without a bar. Never fails anything. */
  readonly reached?: boolean
  readonly note?: string
}

/** One command line name's worth of rows. */
export type Measurement = () => Promise<Row[]>

/** A row that says whether it reached its bars. A bar over a figure that the row lacks throws. */
export function row(name: string, values: Readonly<Record<string, number>>, bars: readonly Bar[] = [], note?: string): Row {
  const reached = bars.map(([figure, side, limit]) => {
    const value = values[figure]
    if (value === undefined) throw new Error(`${name}: a bar over ${figure}, which was not measured`)
    return side === '>=' ? value >= limit : value <= limit
  })
  return {
    name,
    values,
    ...(bars.length === 0
      ? {}
      : { bar: bars.map(([figure, side, limit]) => `${side} ${limit} ${figure}`).join(', '), reached: reached.every(Boolean) }),
    ...(note === undefined ? {} : { note }),
  }
}

/** Seconds that all processors together have been busy: user, nice, system, irq and softirq of /proc/stat, 100 ticks a second. */
export function busySeconds(): number {
  const fields = (readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? '').trim().split(/\s+/).slice(1).map(Number)
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fields
  return (user + nice + system + irq + softirq) / 100
}

/** Memory in bytes that the process shares with no other: what its end would give back. */
export function privateBytes(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const kilobytes = [...rollup.matchAll(/^(?:Private_Clean|Private_Dirty|Private_Hugetlb):\s+(\d+) kB$/gm)]
  if (kilobytes.length === 0) throw new Error(`/proc/${pid}/smaps_rollup names no private memory`)
  return 1024 * kilobytes.reduce((sum, match) => sum + Number(match[1]), 0)
}

/** The value below which the share `q` (0 to 1) of them lies. */
export function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

/** The middle one. */
export function median(values: readonly number[]): number {
  return quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  )
}

/** What the figures were measured on. */
export function machine(): Record<string, string | number> {
  const [first] = cpus()
  return {
    cpu: first?.model ?? 'unknown',
    cores: cpus().length,
    memoryGB: Math.round(totalmem() / 1e9),
    kernel: release(),
    node: process.version,
  }
}

/** Load average of the last minute: what else ran while this was measured. */
export function load(): number {
  return Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0])
}

/** Rows as a Markdown table. */
export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const figures = Object.entries(row.values)
      .map(([unit, value]) => `${Number(value.toPrecision(3))} ${unit}`)
      .join(', ')
    const verdict = row.bar === undefined ? '' : `${row.reached === true ? 'reached' : 'MISSED'}: ${row.bar}`
    return `| ${row.name} | ${figures} | ${verdict} | ${row.note ?? ''} |`
  })
  return ['| what | measured | bar | note |', '|---|---|---|---|', ...lines].join('\n')
}
