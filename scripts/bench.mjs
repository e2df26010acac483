// Measurements against peers, ratios in one run, into bench/results/. Needs root: network namespaces.
//
//   npm run bench                      all of them
//   npm run bench -- NAME…             some; a wrong name lists them
//   npm run bench -- --release NAME…   with the addon as published, which takes minutes more to build the first time
import { ensure } from './ensure.mjs'
import { main, run } from './lib/process.mjs'

await main(async () => {
  const named = process.argv.slice(2)
  await ensure(['test', 'bench'], { release: named.includes('--release') })
  const { code } = await run('npm', ['run', '--silent', 'bench', '-w', 'bench', '--', ...named], { passThrough: true })
  return code ?? 1
})
