// Packs the npm packages as they would be published, into dist/packages: @ztna/sdk, @ztna/native and the addons.
//
//   npm run pack                       what is built now, as tests use it, with the addon of this machine
//   npm run pack -- --release          as published: LTO and no symbols
//   npm run pack -- --addons FOLDER    with the addons of every target, ztna.<target>.node in that folder; none may be missing
//   … --repository URL                 where the source is, as the packages shall say
import { existsSync } from 'node:fs'
import { copyFile, cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ensure } from './ensure.mjs'
import { glibc, glibcOf, publishedFloor } from './glibc.mjs'
import { size } from './size.mjs'
import { symbols } from './symbols.mjs'
import { manifestOf } from './lib/manifest.mjs'
import { Failure, callersPath, isMain, main, must, root, say } from './lib/process.mjs'
import { addonFile, hostTarget, targetsOf } from './lib/target.mjs'

/**
 * Packs what is built now. Returns the tarballs' paths in the order in which they can be published: addons, then who needs them.
 * `addons` is a folder with those of every target; without it there is this machine's alone. `repository` is the source's URL.
 */
export async function pack(destination, { addons, repository } = {}) {
  const native = await manifestOf('crates/ztna-napi')
  const packed = addons === undefined ? [{ target: hostTarget(), file: join(root, addonFile()) }] : addonsOf(native, addons)
  await mkdir(destination, { recursive: true })
  const stage = await mkdtemp(join(tmpdir(), 'ztna-pack-'))
  try {
    const addonPackages = []
    for (const { target, file } of packed) addonPackages.push({ manifest: await addonManifest(native, target, file), files: [file] })
    const optionalDependencies = Object.fromEntries(addonPackages.map(({ manifest }) => [manifest.name, manifest.version]))
    const packages = [
      ...addonPackages,
      {
        // In the repository the addons are not dependencies: they have no version to resolve to before they are published. For the
        // same reason only those that are packed are named: npm would ask elsewhere for the others.
        manifest: { ...native, optionalDependencies },
        files: native.files.map((file) => join(root, 'crates/ztna-napi', file)),
      },
      { manifest: await manifestOf('ts/sdk'), files: [join(root, 'ts/sdk/dist')] },
    ]
    const tarballs = []
    for (const { manifest, files } of packages) tarballs.push(await packOne(stage, destination, sourced(manifest, repository), files))
    return tarballs
  } finally {
    await rm(stage, { recursive: true, force: true })
  }
}

async function packOne(stage, destination, manifest, files) {
  const folder = join(stage, manifest.name.replaceAll('/', '-'))
  await mkdir(folder)
  // Its development is over once it is packed.
  const { devDependencies: _, scripts: __, ...published } = manifest
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(published, null, 2)}\n`)
  for (const file of ['LICENSE', 'README.md']) await copyFile(join(root, file), join(folder, file))
  for (const file of files) await cp(file, join(folder, basename(file)), { recursive: true })
  const { output } = await must('npm', ['pack', '--json', '--pack-destination', destination], { cwd: folder, stdoutOnly: true })
  return join(destination, JSON.parse(output)[0].filename)
}

/** The addons of all targets in a folder. One that is missing fails the lot: its users would get a release that can't load. */
function addonsOf(native, folder) {
  const found = targetsOf(native).map((target) => ({ target, file: join(folder, `ztna.${target}.node`) }))
  const missing = found.filter(({ file }) => !existsSync(file))
  if (missing.length > 0) throw new Failure(`${folder} lacks ${missing.map(({ file }) => basename(file)).join(', ')}`)
  return found
}

/** npm's provenance wants the packages to name the repository that they were built from. */
function sourced(manifest, repository) {
  return repository === undefined ? manifest : { ...manifest, repository: { type: 'git', url: repository } }
}

async function addonManifest(native, target, path) {
  const [os, cpu, libc] = target.split('-')
  const file = basename(path)
  const floor = await glibcOf(path)
  return {
    name: `${native.name}-${target}`,
    version: native.version,
    description: `The addon of ${native.name} for ${target}${floor === undefined ? '' : `, glibc ${floor} or newer`}`,
    license: native.license,
    main: file,
    files: [file],
    engines: native.engines,
    os: [os],
    cpu: [cpu],
    ...(libc === undefined ? {} : { libc: [libc === 'gnu' ? 'glibc' : libc] }),
  }
}

/** What must hold of an addon before anybody gets it. symbols.mjs reads this machine's alone, and has run where the others were built. */
async function gates(release, addons) {
  if (addons !== undefined) {
    const files = addonsOf(await manifestOf('crates/ztna-napi'), addons).map(({ file }) => file)
    return [...(await size(files)), ...(await glibc({ floor: publishedFloor, files }))]
  }
  return release ? [...(await size()), ...(await glibc()), ...(await symbols())] : []
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const options = { release: { type: 'boolean', default: false }, addons: { type: 'string' }, repository: { type: 'string' } }
    const { release, repository, ...values } = parseArgs({ options }).values
    const addons = values.addons && callersPath(values.addons)
    if (addons === undefined) await ensure([], { release })
    else if (!existsSync(join(root, 'ts/sdk/dist/cli.js'))) throw new Failure('ts/sdk/dist is missing: `npm run build -w ts/sdk` makes it')
    const findings = await gates(release, addons)
    if (findings.length > 0) throw new Failure(findings.join('\n'))
    for (const tarball of await pack(join(root, 'dist', 'packages'), { addons, repository })) say(tarball)
  })
}
