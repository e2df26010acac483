// What is too long for `npm test`: long flows under churn, simulations, fuzzing. Writes docs/soak/.
//
//   npm run soak [-- --minutes N] [-- --only flows,simulations,fuzz]
import { ensure } from './ensure.mjs'
import { main, run } from './lib/process.mjs'

await main(async () => {
  await ensure(['test'])
  const { code } = await run('npm', ['run', '--silent', 'soak', '-w', 'bench', '--', ...process.argv.slice(2)], { passThrough: true })
  return code ?? 1
})
