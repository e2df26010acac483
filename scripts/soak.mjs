// What is too long for `npm test`: long flows under churn, simulations, fuzzing. Arguments after `--` go to the soak itself.
import { ensure } from './ensure.mjs'
import { main, run } from './lib/process.mjs'

await main(async () => {
  await ensure(['test'])
  // Ten times the seeds of `npm test` for the whole network in memory.
  const seeds = ['test', '--package', 'ztna-core', '--test', 'system', '--', 'hostile', 'schedules']
  const memory = await run('cargo', seeds, { passThrough: true, env: { ...process.env, ZTNA_SOAK: '10' } })
  if (memory.code !== 0) return memory.code ?? 1
  const { code } = await run('npm', ['run', '--silent', 'soak', '-w', 'bench', '--', ...process.argv.slice(2)], { passThrough: true })
  return code ?? 1
})
