/** Colour and measure of text for terminals. */

/** What a piece of text is; how that looks is decided here. */
export type Tone = 'plain' | 'title' | 'faint' | 'good' | 'middling' | 'bad'

/** Gives text its tone, or leaves it as it is where there are no colours. */
export type Paint = (tone: Tone, text: string) => string

const CODES: Readonly<Record<Exclude<Tone, 'plain'>, number>> = { title: 1, faint: 2, good: 32, middling: 33, bad: 31 }

/** Leaves text as it is. */
export const unpainted: Paint = (_tone, text) => text

const painted: Paint = (tone, text) => (tone === 'plain' || text === '' ? text : `\u001b[${CODES[tone]}m${text}\u001b[0m`)

/** Colours on a terminal alone, unless `NO_COLOR` is set to anything or the terminal has none (`TERM=dumb`). */
export function paintFor(stream: { readonly isTTY?: boolean }, environment: NodeJS.ProcessEnv = process.env): Paint {
  const wanted = stream.isTTY === true && !environment['NO_COLOR'] && environment['TERM'] !== 'dumb'
  return wanted ? painted : unpainted
}

/** How a state looks, of roles and of relays. */
export function toneOfState(state: string): Tone {
  if (state === 'online') return 'good'
  return state === 'closed' || state === 'degraded' ? 'bad' : 'middling'
}

/** How a kind of path looks. */
export function toneOfPath(kind: string): Tone {
  if (kind === 'direct') return 'good'
  return kind === 'relay' ? 'middling' : 'bad'
}

/** `text` in `width` columns: cut with a `~` at the end where it is longer. What would move the cursor becomes a `?`. */
export function fit(text: string, width: number): string {
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
  if (clean.length <= width) return clean
  return width < 2 ? clean.slice(0, Math.max(0, width)) : `${clean.slice(0, width - 1)}~`
}

const SIZES = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'] as const

/** Bytes in three digits and a decimal unit: `999 B`, `1.2 kB`, `35 MB`. */
export function describeBytes(bytes: number): string {
  let [value, unit] = [bytes, 0]
  // What would be rounded to 1000 of one unit is 1.0 of the next.
  while (value >= 999.5 && unit < SIZES.length - 1) {
    value /= 1_000
    unit += 1
  }
  return `${unit === 0 || value >= 9.95 ? Math.round(value) : value.toFixed(1)} ${SIZES[unit] ?? ''}`
}

const AGES = [
  ['d', 86_400],
  ['h', 3_600],
  ['m', 60],
] as const

/** A span of time in its largest unit: `12s`, `3m`, `2h`, `4d`. */
export function describeAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1_000))
  const [unit, size] = AGES.find(([, each]) => seconds >= each) ?? ['s', 1]
  return `${Math.floor(seconds / size)}${unit}`
}
