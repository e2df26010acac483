// Measurements against peers, ratios in one run, into bench/results/. Needs root: network namespaces.
//
//   npm run bench                   all of them
//   npm run bench -- NAME…          some; a wrong name lists them
import { ensure } from './ensure.mjs'
import { main, run } from './lib/process.mjs'

await main(async () => {
  await ensure(['test', 'bench'])
  const { code } = await run('npm', ['run', '--silent', 'bench', '-w', 'bench', '--', ...process.argv.slice(2)], { passThrough: true })
  return code ?? 1
})
