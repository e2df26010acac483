import { cpus, release, totalmem } from 'node:os'
import { readFileSync } from 'node:fs'

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

/** Seconds that all processors together have been busy: user, nice, system, irq and softirq of /proc/stat, 100 ticks a second. */
export function busySeconds(): number {
  const fields = (readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? '').trim().split(/\s+/).slice(1).map(Number)
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fields
  return (user + nice + system + irq + softirq) / 100
}

export function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

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
