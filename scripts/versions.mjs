// A release has one version: of both packages, of what one of them wants of the other, and of the crates.
//
//   node scripts/versions.mjs [TAG]     with a tag, such as v1.2.3, it has to be that version
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { manifestOf } from './lib/manifest.mjs'
import { isMain, main, report, root } from './lib/process.mjs'

/** Returns one sentence for each place that says another version than the repository's package.json. */
export async function versions(tag) {
  const [whole, native, sdk] = await Promise.all(['.', 'crates/ztna-napi', 'ts/sdk'].map(manifestOf))
  const cargo = await readFile(join(root, 'Cargo.toml'), 'utf8')
  const said = [
    ['crates/ztna-napi/package.json', native.version],
    ['ts/sdk/package.json', sdk.version],
    ['ts/sdk/package.json, dependency @ztna/native', sdk.dependencies['@ztna/native']],
    ['Cargo.toml', /^\[workspace\.package\]\n(?:.+\n)*?version\s*=\s*"([^"]+)"/m.exec(cargo)?.[1]],
    ...(tag === undefined ? [] : [[`the tag ${tag}`, tag.replace(/^v/, '')]]),
  ]
  return said
    .filter(([, version]) => version !== whole.version)
    .map(([where, version]) => `${where} says ${version}; package.json says ${whole.version}`)
}

if (isMain(import.meta.url)) {
  await main(async () => report(await versions(process.argv[2])))
}
