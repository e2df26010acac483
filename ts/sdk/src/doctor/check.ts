/** What a check of `doctor()` found, and how one is run. */

/** One check of `doctor()`. */
export interface DoctorCheck {
  /** What was looked at, such as `key` or `relay r1`: docs/operations.md lists them. */
  readonly check: string
  /** `fail`: it does not work like this; `warn`: it works, and somebody should look. */
  readonly status: 'ok' | 'warn' | 'fail'
  /** What was found. */
  readonly detail: string
  /** What to do about it; absent where nothing needs to be done. */
  readonly remedy?: string
  /** Time it took, milliseconds. */
  readonly ms: number
}

/** What a check finds, before its time is known. */
export type Finding = Omit<DoctorCheck, 'ms'>

export const ok = (check: string, detail: string): Finding => ({ check, status: 'ok', detail })
export const warn = (check: string, detail: string, remedy: string): Finding => ({ check, status: 'warn', detail, remedy })
export const fail = (check: string, detail: string, remedy: string): Finding => ({ check, status: 'fail', detail, remedy })

/** Runs `look` and says of each finding how long it took. What it throws is a finding too: a doctor never fails for what it meets. */
export async function timed(check: string, look: () => readonly Finding[] | Promise<readonly Finding[]>): Promise<DoctorCheck[]> {
  const begun = performance.now()
  let found: readonly Finding[]
  try {
    found = await look()
  } catch (error) {
    found = [
      fail(
        check,
        `could not be looked at: ${error instanceof Error ? error.message : String(error)}`,
        'mend what the message names, and ask again',
      ),
    ]
  }
  const ms = Math.round((performance.now() - begun) * 1_000) / 1_000
  return found.map((finding) => Object.freeze(Object.assign(finding, { ms })))
}
