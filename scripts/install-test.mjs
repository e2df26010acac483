// Installs the packed tarballs into an empty folder, the way a user would, and loads them from an ES module, from CommonJS and
// from the command line. Finds what a checkout hides: a file missing from the package, a dependency that only the workspace has.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pack } from './pack.mjs'
import { Failure, isMain, main, must } from './lib/process.mjs'

// Loading the addon and naming a class of each role is what a wrong package fails at.
const body = `
if ([ZtnaAgent, ZtnaConnector, ZtnaRelay, createTestNetwork].some((name) => typeof name !== 'function')) throw new Error('a name is missing')
const agent = new ZtnaAgent({ network: './no-such-folder' })
agent.start().then(
  () => { throw new Error('started without a network folder') },
  (error) => { console.log(error.code) },
)
`
const names = '{ ZtnaAgent, ZtnaConnector, ZtnaRelay }'

export async function installTest() {
  const folder = await mkdtemp(join(tmpdir(), 'ztna-install-'))
  try {
    const tarballs = await pack(join(folder, 'packages'))
    const user = join(folder, 'user')
    await must('mkdir', [user])
    await writeFile(join(user, 'package.json'), '{ "name": "user", "private": true }\n')
    await must('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', ...tarballs], { cwd: user })
    await writeFile(
      join(user, 'esm.mjs'),
      `import ${names} from '@ztna/sdk'\nimport { createTestNetwork } from '@ztna/sdk/testing'\n${body}`,
    )
    await writeFile(
      join(user, 'cjs.cjs'),
      `const ${names} = require('@ztna/sdk')\nconst { createTestNetwork } = require('@ztna/sdk/testing')\n${body}`,
    )
    for (const script of ['esm.mjs', 'cjs.cjs']) {
      const { output } = await must(process.execPath, [script], { cwd: user, stdoutOnly: true, timeoutMs: 30_000 })
      if (!['ERR_ZTNA_CONFIG', 'ERR_ZTNA_IDENTITY'].includes(output.trim())) {
        throw new Failure(`${script}: expected a configuration error for a missing network folder, got ${JSON.stringify(output)}`)
      }
    }
    const help = await must(join(user, 'node_modules', '.bin', 'ztna'), ['--help'], { cwd: user, stdoutOnly: true, timeoutMs: 30_000 })
    if (!help.output.includes('relay')) throw new Failure(`ztna --help does not name its roles:\n${help.output}`)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

if (isMain(import.meta.url)) await main(installTest)
