// The name of the machine we are on, as the addon's file and package names spell it.

/** Such as `linux-x64-gnu` or `darwin-arm64`. */
export function hostTarget() {
  const target = `${process.platform}-${process.arch}`
  if (process.platform !== 'linux') return target
  // The report names glibc's version when there is one; its network part is slow and not wanted.
  process.report.excludeNetwork = true
  const { glibcVersionRuntime } = process.report.getReport().header
  return `${target}-${glibcVersionRuntime === undefined ? 'musl' : 'gnu'}`
}

/** The addon for this machine, from the repository's root. */
export function addonFile() {
  return `crates/ztna-napi/ztna.${hostTarget()}.node`
}

const processors = { x86_64: 'x64', aarch64: 'arm64' }

/** The targets that there are addons for: the Rust triples of @ztna/native's manifest, spelled as `hostTarget` does. */
export function targetsOf(manifest) {
  return manifest.napi.targets.map((triple) => {
    const [processor, , ...system] = triple.split('-')
    const [os, libc] = system[0] === 'darwin' ? ['darwin'] : system
    return [os, processors[processor], libc].filter((part) => part !== undefined).join('-')
  })
}
