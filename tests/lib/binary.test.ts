import { tmpdir } from 'node:os'
import { afterEach, expect, test, vi } from 'vitest'
import { builtBinary } from './binary.ts'

afterEach(() => void vi.unstubAllEnvs())

test('a binary that is missing names the command that makes it, and no variable: a role that is started with an unknown one refuses it', () => {
  vi.stubEnv('CARGO_TARGET_DIR', `${tmpdir()}/nothing-built`)
  expect(() => builtBinary('ztna-netlab')).toThrow(/\/nothing-built\/debug\/ztna-netlab is missing: run npm run build$/)
})
