/** What `ztna top` puts on the screen, as lines of text. */
import { type Column, layOut } from './columns.js'
import { type Paint, describeAge, describeBytes, fit, toneOfPath, toneOfState } from './style.js'
import { type Order, type Rates, type TopFlow, type TopSample, inOrder } from './top-sample.js'

/** The room there is, and how to use it. */
export interface View {
  /** Columns. */
  readonly width: number
  /** Lines; Infinity where all are to be shown. */
  readonly height: number
  readonly paint: Paint
  readonly order: Order
  /** Said in the last line, such as which keys there are. Default: nothing. */
  readonly footer?: string
}

/** Flows are given this many lines before peers are. */
const LEAST_FLOWS = 5

/** At most `height` lines of at most `width` columns. */
export function renderTop(sample: TopSample, view: View): string[] {
  const { width, height, paint, footer } = view
  const head = [title(sample, view), ...relays(sample, view)]
  const foot = footer === undefined ? [] : [paint('faint', fit(footer, width))]
  let room = Math.max(0, height - head.length - foot.length)
  const lines = [...head]
  if (sample.peers.length > 0) {
    const peers = block(layOut(sample.peers, PEERS, width, paint), Math.max(0, room - LEAST_FLOWS - 2), sample.peers.length, view)
    lines.push(...peers)
    room -= peers.length
  }
  const what = sample.role === 'relay' ? 'sessions' : 'flows'
  if (sample.flows.length === 0) lines.push(...['', paint('faint', fit(`no ${what}`, width))].slice(0, room))
  else {
    const columns = sample.role === 'relay' ? SESSIONS : flowColumns(sample)
    const rows = inOrder(sample.flows, view.order)
    lines.push(...block(layOut(rows, columns, width, paint), room, rows.length + sample.flowsOmitted, view))
  }
  const body = lines.slice(0, Math.max(0, height - foot.length))
  const blank = Number.isFinite(height) ? Math.max(0, height - body.length - foot.length) : 0
  return foot.length === 0 ? body : [...body, ...Array.from({ length: blank }, () => ''), ...foot]
}

/** An empty line, then as much of a table as there is room for, and how much there is beyond it. `all`: rows that there are. */
function block(table: readonly string[], room: number, all: number, { width, paint }: View): string[] {
  const lines = ['', ...table]
  const hidden = all - (table.length - 1)
  if (lines.length <= room && hidden === 0) return lines
  // One line for the table's head, one before it, one for the rest.
  if (room < 4) return []
  const shown = lines.slice(0, Math.min(lines.length, room - 1))
  return [...shown, paint('faint', fit(`and ${all - (shown.length - 2)} more`, width))]
}

function title(sample: TopSample, { width, paint }: View): string {
  const time = sample.at.toISOString().slice(11, 19)
  const count = sample.flows.length + sample.flowsOmitted
  const what = `${count} ${sample.role === 'relay' ? 'session' : 'flow'}${count === 1 ? '' : 's'}`
  const parts = [
    { text: `${sample.role} ${sample.name}`, tone: 'title' },
    { text: sample.state, tone: toneOfState(sample.state) },
    { text: what, tone: 'plain' },
    { text: `in ${perSecond(sample.rxPerSecond)}  out ${perSecond(sample.txPerSecond)}`, tone: 'plain' },
    { text: `${time} UTC`, tone: 'faint' },
  ] as const
  let [line, used] = ['', 0]
  for (const { text, tone } of parts) {
    const gap = used === 0 ? 0 : 2
    const cut = used === 0 ? fit(text, width) : text
    if (used + gap + cut.length > width) break
    line += ' '.repeat(gap) + paint(tone, cut)
    used += gap + cut.length
  }
  return line
}

function relays(sample: TopSample, { width, paint }: View): string[] {
  return sample.relays.map(({ name, state, rttMs }) => {
    const text = `relay ${name}`
    if (text.length + state.length + 2 > width) return fit(text, width)
    const rtt = state === 'online' ? `  ${rttMs.toFixed(2)} ms` : ''
    const shown = text.length + 2 + state.length + rtt.length > width ? '' : rtt
    return `${text}  ${paint(toneOfState(state), state)}${shown}`
  })
}

const perSecond = (rate: number | null): string => (rate === null ? '-' : `${describeBytes(rate)}/s`)

type Peer = TopSample['peers'][number]

const PEERS: readonly Column<Peer>[] = [
  { title: 'PEER', rank: 9, cell: ({ name }) => ({ text: name }) },
  { title: 'PATH', rank: 9, cell: ({ path }) => ({ text: way(path.kind, path.relay), tone: toneOfPath(path.kind) }) },
  { title: 'RTT', rank: 8, align: 'right', cell: ({ path }) => ({ text: path.kind === 'none' ? '-' : `${path.rttMs.toFixed(1)} ms` }) },
  {
    title: 'LOSS',
    rank: 6,
    align: 'right',
    cell: ({ path }) => ({ text: `${path.lossPct.toFixed(1)}%`, tone: path.lossPct >= 1 ? 'bad' : 'plain' }),
  },
  { title: 'FLOWS', rank: 7, align: 'right', cell: ({ flows }) => ({ text: String(flows) }) },
  { title: 'FOR', rank: 5, cell: ({ pathPolicy }) => ({ text: pathPolicy === 'auto' ? '' : pathPolicy }) },
]

const BYTES: readonly Column<Rates & { readonly rxBytes: number; readonly txBytes: number }>[] = [
  { title: 'IN/S', rank: 8, align: 'right', cell: ({ rxPerSecond }) => moving(rxPerSecond) },
  { title: 'OUT/S', rank: 8, align: 'right', cell: ({ txPerSecond }) => moving(txPerSecond) },
  { title: 'IN', rank: 6, align: 'right', cell: ({ rxBytes }) => ({ text: describeBytes(rxBytes) }) },
  { title: 'OUT', rank: 5, align: 'right', cell: ({ txBytes }) => ({ text: describeBytes(txBytes) }) },
]

const SESSIONS: readonly Column<TopFlow>[] = [
  { title: 'AGENT', rank: 9, cell: ({ agent = '' }) => ({ text: agent }) },
  { title: 'CONNECTOR', rank: 9, cell: ({ connector = '' }) => ({ text: connector }) },
  ...BYTES,
  { title: 'ID', rank: 1, align: 'right', cell: ({ id }) => ({ text: id }) },
]

function flowColumns({ at }: TopSample): readonly Column<TopFlow>[] {
  return [
    { title: 'SERVICE', rank: 9, cell: serviceOf },
    { title: 'PEER', rank: 7, cell: ({ peer = '' }) => ({ text: peer }) },
    { title: 'PATH', rank: 7, cell: pathOf },
    ...BYTES,
    {
      title: 'AGE',
      rank: 4,
      align: 'right',
      cell: ({ since }) => ({ text: since === undefined ? '' : describeAge(at.getTime() - since.getTime()) }),
    },
    { title: 'ID', rank: 1, align: 'right', cell: ({ id }) => ({ text: id }) },
  ]
}

function serviceOf({ service = '', port, protocol = 'tcp' }: TopFlow): { text: string } {
  return { text: `${service}${port === undefined ? '' : `:${port}`}${protocol === 'tcp' ? '' : `/${protocol}`}` }
}

function pathOf({ open = true, path = 'none', relay }: TopFlow): { text: string; tone: ReturnType<typeof toneOfPath> } {
  return open ? { text: way(path, relay), tone: toneOfPath(path) } : { text: 'opening', tone: 'middling' }
}

const way = (kind: string, relay: string | undefined): string => (relay === undefined ? kind : `${kind} ${relay}`)

function moving(rate: number | null): { text: string; tone: 'plain' | 'faint' } {
  return { text: rate === null ? '-' : describeBytes(rate), tone: rate === 0 || rate === null ? 'faint' : 'plain' }
}
