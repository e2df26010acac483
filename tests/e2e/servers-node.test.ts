import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { run } from '../lib/proc.ts'
import { selfSigned } from '../lib/self-signed.ts'

const FIXTURE = fileURLToPath(new URL('../fixtures/served-timeouts.mjs', import.meta.url))
/** Nodes to run on: paths, separated by `:`. Default: this one. */
const NODES = process.env['ZTNA_TEST_NODES']?.split(':') ?? [process.execPath]

test.each(NODES)('headersTimeout, requestTimeout and keepAliveTimeout work on a served server, by %s', async (node) => {
  const dir = mkdtempSync(join(tmpdir(), 'ztna-served-'))
  try {
    const { key, cert } = await selfSigned('web.ztna.internal')
    writeFileSync(join(dir, 'key.pem'), key)
    writeFileSync(join(dir, 'cert.pem'), cert)
    const { stdout } = await run(null, node, [FIXTURE, join(dir, 'key.pem'), join(dir, 'cert.pem')], { timeoutMs: 60_000 })
    const { results, warnings } = JSON.parse(stdout) as { results: Record<string, unknown>; warnings: number }
    const expected = ['http', 'https', 'http2 with HTTP/1'].flatMap((name) => [
      [`${name}: headersTimeout`, 'HTTP/1.1 408 Request Timeout'],
      [`${name}: requestTimeout`, 'HTTP/1.1 408 Request Timeout'],
      [`${name}: keepAliveTimeout`, 'HTTP/1.1 200 OK alice from IPv6'],
      [`${name}: failed`, 'HTTP/1.1 500 Internal Server Error'],
      [`${name}: closes`, true],
    ])
    expect(results).toEqual(Object.fromEntries(expected))
    expect(warnings).toBe(3)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
