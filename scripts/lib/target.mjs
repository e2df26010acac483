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
