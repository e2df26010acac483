// Measurements against peers, ratios in one run: docs in bench/. Arguments after `--` go to the bench itself.
import { ensure } from './ensure.mjs'
import { main, run } from './lib/process.mjs'

await main(async () => {
  await ensure(['test', 'bench'])
  const { code } = await run('npm', ['run', '--silent', 'bench', '-w', 'bench', '--', ...process.argv.slice(2)], { passThrough: true })
  return code ?? 1
})
