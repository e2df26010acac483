import { readFileSync, readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { SYSTEM_CODES, aborted, fromNative } from '../src/errors.js'
import { ZtnaDeniedError, ZtnaError, type ZtnaErrorCode } from '../src/index.js'
import { nativeError } from './fake-native.js'

const ROOT = new URL('../../../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8')
const CODES = Object.keys(SYSTEM_CODES) as ZtnaErrorCode[]
const codesIn = (text: string): string[] => [...new Set(text.match(/\bERR_ZTNA_[A-Z_]+\b/g) ?? [])]
const rows = read('docs/errors.md')
  .split('\n')
  .filter((line) => line.startsWith('| ERR_'))
  .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()))

test.each(CODES)('docs/errors.md has %s, with what it means, what to do, its system code and whether it may pass', (code) => {
  const found = rows.filter(([, first]) => first === code)
  expect(found).toHaveLength(1)
  const [, , system, means = '', remedy = '', retryable = ''] = found[0] ?? []
  // The cause of an abort is the caller's.
  expect(system).toBe(code === 'ERR_ZTNA_ABORTED' ? 'none: `cause` is `signal.reason`' : SYSTEM_CODES[code])
  expect(means.length).toBeGreaterThan(20)
  expect(remedy).not.toBe('')
  expect(retryable.startsWith('yes')).toBe(new ZtnaError(code, '').retryable)
})

test('docs/errors.md has no code that there is not', () => {
  expect(rows.map(([, code]) => code)).toHaveLength(CODES.length)
})

test('no document and no native source names a code that there is not', () => {
  const names = readdirSync(new URL('docs', ROOT), { recursive: true, encoding: 'utf8' })
  const documents = ['README.md', ...names.filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)]
  for (const path of [...documents, 'crates/ztna-core/src/error.rs']) {
    expect(
      codesIn(read(path)).filter((code) => !CODES.includes(code as ZtnaErrorCode)),
      path,
    ).toEqual([])
  }
})

test.each(CODES)('%s of native becomes its class, with details, retryable and a system code as cause', (code) => {
  const details = { by: 'relay', reason: 'r', tried: ['a'], decisionId: 'd1', policyId: 'p' }
  const thrown = new Error(JSON.stringify({ code, message: 'm', retryable: code !== 'ERR_ZTNA_DENIED', details }))
  const error = fromNative(thrown, { service: 'web', reason: 'asked' })
  expect(error).toBeInstanceOf(code === 'ERR_ZTNA_DENIED' ? ZtnaDeniedError : ZtnaError)
  expect(error).toMatchObject({
    code,
    message: 'm',
    retryable: code !== 'ERR_ZTNA_DENIED',
    details: { service: 'web', ...details },
    cause: { code: SYSTEM_CODES[code] },
  })
  expect(error.name).toBe(error.constructor.name)
})

test('a denial shows which end denied, the decision and the policy', () => {
  const error = fromNative(nativeError('ERR_ZTNA_DENIED', 'no', { by: 'connector', decisionId: 'd7', policyId: 'p' }))
  expect(error).toMatchObject({ by: 'connector', decisionId: 'd7', policyId: 'p', retryable: false })
})

test.each([
  ['an unknown code', nativeError('ERR_ZTNA_NEW', 'm')],
  ['a code that every object has', nativeError('toString', 'm')],
  ['text that is no JSON', new Error('StringExpected')],
  ['JSON that is no error', new Error('{"a":1}')],
  ['no error at all', 'boom'],
  ['undefined', undefined],
])('%s becomes ERR_ZTNA_NATIVE and is not retryable', (_name, thrown) => {
  expect(fromNative(thrown)).toMatchObject({ code: 'ERR_ZTNA_NATIVE', retryable: false })
})

test('an error of ours stays the one it is', () => {
  const error = aborted()
  expect(fromNative(error)).toBe(error)
})

test('the cause of an abort is what the signal was given as its reason', () => {
  const reason = new Error('shutting down')
  expect(aborted(AbortSignal.abort(reason)).cause).toBe(reason)
  expect(aborted(AbortSignal.abort()).cause).toMatchObject({ name: 'AbortError' })
})

test('details can not be changed by who gets them', () => {
  const error = new ZtnaError('ERR_ZTNA_LIMIT', 'm', { details: { limit: 1 } })
  expect(() => Object.assign(error.details, { limit: 2 })).toThrow(TypeError)
  expect(error.details.recent).toBeUndefined()
})
