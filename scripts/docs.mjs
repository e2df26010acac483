// The API reference, from the SDK's docstrings, into dist/docs.
import { ensure } from './ensure.mjs'
import { main, must, say } from './lib/process.mjs'

await main(async () => {
  await ensure()
  await must('node_modules/.bin/typedoc', [])
  say('dist/docs/index.html')
})
