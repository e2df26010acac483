// Packs the npm packages as they would be published, into dist/packages: @ztna/sdk, @ztna/native and the addon of this machine.
//
//   npm run pack                  what is built now, as tests use it
//   npm run pack -- --release     as published: thin LTO and no symbols
import { copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ensure } from './ensure.mjs'
import { isMain, main, must, root, say } from './lib/process.mjs'
import { addonFile, hostTarget } from './lib/target.mjs'

/** Packs what is built now. Returns the tarballs' paths, the addon first. */
export async function pack(destination) {
  await mkdir(destination, { recursive: true })
  const stage = await mkdtemp(join(tmpdir(), 'ztna-pack-'))
  try {
    const native = await manifestOf('crates/ztna-napi')
    const addon = addonManifest(native)
    const packages = [
      { manifest: addon, files: [addonFile()] },
      {
        // In the repository the addons are not dependencies: they have no version to resolve to before they are published.
        manifest: { ...native, optionalDependencies: { [addon.name]: addon.version } },
        files: native.files.map((file) => `crates/ztna-napi/${file}`),
      },
      { manifest: await manifestOf('ts/sdk'), files: ['ts/sdk/dist'] },
    ]
    const tarballs = []
    for (const { manifest, files } of packages) tarballs.push(await packOne(stage, destination, manifest, files))
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
  for (const file of files) await cp(join(root, file), join(folder, basename(file)), { recursive: true })
  const { output } = await must('npm', ['pack', '--json', '--pack-destination', destination], { cwd: folder, stdoutOnly: true })
  return join(destination, JSON.parse(output)[0].filename)
}

function addonManifest(native) {
  const target = hostTarget()
  const [os, cpu, libc] = target.split('-')
  const file = basename(addonFile())
  return {
    name: `${native.name}-${target}`,
    version: native.version,
    description: `The addon of ${native.name} for ${target}`,
    license: native.license,
    main: file,
    files: [file],
    engines: native.engines,
    os: [os],
    cpu: [cpu],
    ...(libc === undefined ? {} : { libc: [libc === 'gnu' ? 'glibc' : libc] }),
  }
}

async function manifestOf(folder) {
  return JSON.parse(await readFile(join(root, folder, 'package.json'), 'utf8'))
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const { release } = parseArgs({ options: { release: { type: 'boolean', default: false } } }).values
    await ensure([], { release })
    for (const tarball of await pack(join(root, 'dist', 'packages'))) say(tarball)
  })
}
