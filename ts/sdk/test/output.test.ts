import { afterEach, expect, test, vi } from 'vitest'
import { createLogger } from '../src/cli/output.js'

afterEach(() => void vi.unstubAllEnvs())

/** One line of each level, as `environment` and the stream have it. */
function logged(isTTY: boolean, environment: Readonly<Record<string, string>>): string {
  vi.stubEnv('NO_COLOR', undefined)
  vi.stubEnv('TERM', 'xterm')
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value)
  let text = ''
  const logger = createLogger('pretty', { isTTY, write: (more) => (text += more) })
  for (const level of ['debug', 'info', 'warn', 'error'] as const) logger[level]({ n: 1 }, 'said')
  return text
}

test('log lines have colours on a terminal that has them', () => {
  // eslint-disable-next-line no-control-regex -- a colour is a control sequence
  expect(logged(true, {}).match(/\u001b\[\d+m[A-Z]+ *\u001b\[0m said n=1$/gm)).toHaveLength(4)
})

test.each([
  ['that is no terminal', false, {}],
  ['where NO_COLOR is set', true, { NO_COLOR: '1' }],
  ['of a terminal that has none', true, { TERM: 'dumb' }],
])('log lines have no colours on an output %s', (_, isTTY, environment) => {
  expect(logged(isTTY, environment)).not.toContain('\u001b')
})
