// Installs the packed tarballs into an empty folder, the way a user would and with nothing on PATH that could compile, and uses them from
// an ES module, from CommonJS and from the command line. Finds what a checkout hides: a file missing from the package, a dependency
// that only the workspace has, a Node whose insides are not as the SDK takes them.
//
//   node scripts/install-test.mjs                         packs what is built and tries it with this Node
//   node scripts/install-test.mjs --packages FOLDER       tries packages that are there, such as those to be published
//   node scripts/install-test.mjs --node PATH…            tries these Nodes, too; --node all takes 22, 24 and 26 from npm
import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readdir, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { parseArgs } from 'node:util'
import { pack } from './pack.mjs'
import { Failure, callersPath, isMain, main, must, root, say } from './lib/process.mjs'
import { hostTarget } from './lib/target.mjs'

/** The major versions beside the oldest one, which is what a checkout is built with. */
const newer = [22, 24, 26]
const timeoutMs = 60_000

// Loading the addon and naming a class of each role is what a wrong package fails at.
const body = `
if ([ZtnaAgent, ZtnaConnector, ZtnaRelay, createTestNetwork, express, fastify, hono].some((name) => typeof name !== 'function')) {
  throw new Error('a name is missing')
}
new ZtnaAgent({ network: './no-such-folder' }).start().then(
  () => { throw new Error('started without a network folder') },
  (error) => { console.log(error.code) },
)
`
const imports = {
  '@ztna/sdk': ['ZtnaAgent', 'ZtnaConnector', 'ZtnaRelay'],
  '@ztna/sdk/testing': ['createTestNetwork'],
  '@ztna/sdk/express': ['ztna: express'],
  '@ztna/sdk/fastify': ['ztna: fastify'],
  '@ztna/sdk/hono': ['ztna: hono'],
}
const cjs = Object.entries(imports).map(([from, names]) => `const { ${names.join(', ')} } = require('${from}')\n`)
const esm = Object.entries(imports).map(([from, names]) => `import { ${names.join(', ').replaceAll(':', ' as')} } from '${from}'\n`)

/** `packages`: a folder of tarballs, or pack now. `nodes`: what to try besides this Node. */
export async function installTest({ packages, nodes = [] } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'ztna-install-'))
  try {
    const tarballs = packages === undefined ? await pack(join(folder, 'packages')) : await tarballsIn(packages)
    const user = join(folder, 'user')
    const env = await bareEnvironment(join(folder, 'bin'))
    await install(user, tarballs, env)
    await writeFile(join(user, 'esm.mjs'), [...esm, body].join(''))
    await writeFile(join(user, 'cjs.cjs'), [...cjs, body].join(''))
    await copyFile(join(root, 'scripts/lib/probe.mjs'), join(user, 'probe.mjs'))
    const others = nodes.includes('all') ? await nodesFromNpm(join(folder, 'nodes')) : nodes
    for (const node of [process.execPath, ...others]) await tryWith(node, user, env)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function tryWith(node, user, env) {
  const options = { cwd: user, env, stdoutOnly: true, timeoutMs }
  const { output: version } = await must(node, ['--version'], options)
  for (const script of ['esm.mjs', 'cjs.cjs']) {
    const { output } = await must(node, [script], options)
    if (!['ERR_ZTNA_CONFIG', 'ERR_ZTNA_IDENTITY'].includes(output.trim())) {
      throw new Failure(`${script}: expected a configuration error for a missing network folder, got ${JSON.stringify(output)}`)
    }
  }
  const { output } = await must(node, ['probe.mjs'], { ...options, stdoutOnly: false })
  if (output.trim() !== 'ok') throw new Failure(`probe.mjs on Node ${version.trim()}:\n${output}`)
  const help = await must(node, [join('node_modules', '.bin', 'ztna'), '--help'], options)
  if (!help.output.includes('relay')) throw new Failure(`ztna --help does not name its roles:\n${help.output}`)
  say(`installed and used: Node ${version.trim()}`)
}

async function install(user, tarballs, env) {
  await mkdir(user)
  await writeFile(join(user, 'package.json'), '{ "name": "user", "private": true }\n')
  await npm(['install', '--prefer-offline', '--no-audit', '--no-fund', ...tarballs], { cwd: user, env })
}

/** This machine's three of the packages in a folder. */
async function tarballsIn(folder) {
  const wanted = ['ztna-native-\\d', `ztna-native-${hostTarget()}-\\d`, 'ztna-sdk-\\d'].map((start) => new RegExp(`^${start}.*\\.tgz$`))
  const names = await readdir(folder)
  return wanted.map((pattern) => {
    const found = names.filter((name) => pattern.test(name))
    if (found.length !== 1) throw new Failure(`${folder} has ${found.length} packages that match ${pattern}, not one`)
    return join(folder, found[0])
  })
}

/** An environment whose PATH has node and nothing else: no compiler, no cargo. */
async function bareEnvironment(bin) {
  await mkdir(bin)
  await symlink(process.execPath, join(bin, 'node'))
  return { ...process.env, PATH: bin }
}

/** npm by its script, which needs nothing on PATH. */
async function npm(args, options) {
  const places = (process.env.PATH ?? '').split(delimiter).map((place) => join(place, 'npm'))
  const found = places.find((place) => existsSync(place))
  if (found === undefined) throw new Failure('npm is not on PATH')
  return await must(process.execPath, [await realpath(found), ...args], options)
}

/** Node's own programs, from the packages that the `node` package would take them from. They are built for glibc. */
async function nodesFromNpm(folder) {
  await mkdir(folder)
  await writeFile(join(folder, 'package.json'), '{ "name": "nodes", "private": true }\n')
  const machine = `${process.platform}-${process.arch}`
  const aliases = newer.map((major) => `node${major}@npm:node-${machine}@${major}`)
  await npm(['install', '--prefer-offline', '--no-audit', '--no-fund', ...aliases], { cwd: folder })
  return newer.map((major) => join(folder, 'node_modules', `node${major}`, 'bin', 'node'))
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const options = { packages: { type: 'string' }, node: { type: 'string', multiple: true } }
    const { packages, node } = parseArgs({ options }).values
    const nodes = (node ?? []).map((path) => (path === 'all' ? path : callersPath(path)))
    await installTest({ packages: packages && callersPath(packages), nodes })
  })
}
