// Formats everything `npm run check` looks at.
import { ensure } from './ensure.mjs'
import { main, must } from './lib/process.mjs'

await main(async () => {
  await ensure()
  await must('cargo', ['fmt', '--all'])
  await must('node_modules/.bin/prettier', ['--write', '--log-level=warn', '.'])
})
