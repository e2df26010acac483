/** Tables for terminals: columns that give way, from the least wanted on, where there is little room. */
import { type Paint, type Tone, fit } from './style.js'

/** One piece of text in a table. */
export interface Cell {
  readonly text: string
  readonly tone?: Tone
}

/** A column of rows of type `R`. */
export interface Column<R> {
  readonly title: string
  readonly cell: (row: R) => Cell
  readonly align?: 'right'
  /** The higher, the longer it stays as room gets scarce; those of the highest rank are narrowed, and never left out. */
  readonly rank: number
}

/** Columns between two columns. */
const GAP = 2
/** A text is narrowed to no less than this. */
const NARROWEST = 6

interface Laid {
  readonly title: string
  readonly align: 'right' | undefined
  readonly rank: number
  readonly cells: readonly Cell[]
  width: number
}

/** The head and a line for each row, each at most `width` columns wide. */
export function layOut<R>(rows: readonly R[], columns: readonly Column<R>[], width: number, paint: Paint): string[] {
  const all = columns.map(({ title, cell, align, rank }): Laid => {
    const cells = rows.map((row) => cell(row))
    return { title, align, rank, cells, width: Math.max(title.length, ...cells.map(({ text }) => text.length)) }
  })
  const shown = thatFit(all, width)
  narrow(shown, width)
  const line = (texts: readonly Cell[]): string =>
    shown
      .map(({ align, width: room }, at) => {
        const { text = '', tone = 'plain' } = texts[at] ?? {}
        const cut = fit(text, room)
        const blank = ' '.repeat(room - cut.length)
        const last = at === shown.length - 1
        return align === 'right' ? blank + paint(tone, cut) : paint(tone, cut) + (last ? '' : blank)
      })
      .join(' '.repeat(GAP))
  const head = line(shown.map(({ title }) => ({ text: title, tone: 'faint' })))
  return [head, ...rows.map((_, row) => line(shown.map(({ cells }) => cells[row] ?? { text: '' })))]
}

const widthOf = (columns: readonly Laid[]): number => columns.reduce((sum, { width }) => sum + width + GAP, -GAP)

function thatFit(columns: readonly Laid[], width: number): Laid[] {
  const shown = [...columns]
  const highest = Math.max(...columns.map(({ rank }) => rank))
  while (widthOf(shown) > width) {
    const least = shown.filter(({ rank }) => rank < highest).sort((a, b) => a.rank - b.rank)[0]
    if (least === undefined) break
    shown.splice(shown.indexOf(least), 1)
  }
  return shown
}

/** Takes from the widest, one by one, until all fit. */
function narrow(columns: readonly Laid[], width: number): void {
  let excess = widthOf(columns) - width
  while (excess > 0) {
    const widest = columns.reduce<Laid | undefined>((most, each) => (each.width > (most?.width ?? NARROWEST) ? each : most), undefined)
    if (widest === undefined) return
    widest.width -= 1
    excess -= 1
  }
}
