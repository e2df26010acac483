import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Spinner, withNotice, withProgress } from '../src/cli/progress.js'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

async function shown(
  isTTY: boolean,
  ms: number,
  work: () => Promise<string> = async () => 'done',
): Promise<[written: string[], result: string]> {
  const written: string[] = []
  const finished = new Promise<void>((resolve) => setTimeout(resolve, ms))
  const output = { isTTY, write: (text: string) => written.push(text) }
  const result = withProgress('looking', finished.then(work), output).catch((error: unknown) => (error as Error).message)
  await vi.advanceTimersByTimeAsync(ms + 1)
  return [written, await result]
}

test('what takes longer than a second shows a sign of life, and wipes it away', async () => {
  const [written, result] = await shown(true, 3_000)
  expect(written.length).toBeGreaterThan(10)
  expect(written[0]?.startsWith('\r\u001b[K')).toBe(true)
  expect(written[0]).toMatch(/[|/\\-] looking$/)
  expect([written.at(-1), result]).toEqual(['\r\u001b[K', 'done'])
})

test('what is done sooner, and what goes to a pipe, shows none', async () => {
  expect(await shown(true, 900)).toEqual([[], 'done'])
  expect(await shown(false, 9_000)).toEqual([[], 'done'])
})

test('work that turns nothing has its notice on a terminal alone', () => {
  const written: string[] = []
  const write = (text: string): unknown => written.push(text)
  expect(withNotice('writing', () => 1, { isTTY: false, write })).toBe(1)
  expect(written).toEqual([])
  expect(withNotice('writing', () => 2, { isTTY: true, write })).toBe(2)
  expect(written).toEqual(['writing', '\r\u001b[K'])
})

test('a failure wipes it away too', async () => {
  const [written, result] = await shown(true, 2_000, () => Promise.reject(new Error('broken')))
  expect([written.at(-1), result]).toEqual(['\r\u001b[K', 'broken'])
})

test('what else is written stays above the line, which fits the terminal, and stop() leaves nothing of it', async () => {
  const written: string[] = []
  const spinner = new Spinner((seconds) => `looking for ${seconds} s`, { isTTY: true, columns: 14, write: (text) => written.push(text) })
  spinner.write('first\n')
  await vi.advanceTimersByTimeAsync(1_100)
  spinner.write('second\n')
  spinner.write('third\n')
  await vi.advanceTimersByTimeAsync(120)
  spinner.stop()
  spinner.stop()
  const line = expect.stringMatching(/\[K[|/\\-] looking fo~$/) as string
  expect(written).toEqual(['first\n', line, '\r\u001b[Ksecond\n', 'third\n', line, '\r\u001b[K'])
})
