import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

const made: string[] = []

afterAll(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true })
})

/** A new empty folder that is gone when the test file ends. */
export function tempDir(): string {
  const path = mkdtempSync(join(tmpdir(), 'ztna-test-'))
  made.push(path)
  return path
}
