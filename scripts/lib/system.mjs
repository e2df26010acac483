// What this machine has, and what is missing: node, cargo, and the programs that come from Debian's packages.
import { accessSync, constants, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { readFile } from 'node:fs/promises'
import { spawnSync } from 'node:child_process'
import { compareVersions } from './compare-versions.mjs'
import { manifestOf } from './manifest.mjs'
import { Failure, must, root, run, say } from './process.mjs'

/**
 * Debian's package and how to see that it is there: a command, or a test of its own where it has none.
 * A command from elsewhere (a newer cmake in /usr/local, say) is as good as the package's.
 */
const packages = {
  build: [
    { name: 'cmake', command: 'cmake' },
    { name: 'clang', command: 'clang' },
    { name: 'libclang-dev', present: hasLibclang },
    { name: 'g++', command: 'g++' },
    { name: 'make', command: 'make' },
    { name: 'git', command: 'git' },
    { name: 'pkg-config', command: 'pkg-config' },
  ],
  test: [
    { name: 'iproute2', command: 'ip' },
    { name: 'nftables', command: 'nft' },
    { name: 'nginx-light', command: 'nginx' },
    { name: 'miniupnpd-nftables', command: 'miniupnpd' },
    { name: 'postgresql', present: () => hasEntry('/usr/lib/postgresql') },
    { name: 'mariadb-server', command: 'mariadbd' },
    { name: 'redis-server', command: 'redis-server' },
    { name: 'redis-tools', command: 'redis-benchmark' },
    { name: 'iperf3', command: 'iperf3' },
    { name: 'openssh-server', command: 'sshd' },
    { name: 'openssh-client', command: 'scp' },
    { name: 'dnsmasq-base', command: 'dnsmasq' },
    { name: 'bind9-dnsutils', command: 'dig' },
    { name: 'openssl', command: 'openssl' },
    { name: 'procps', command: 'ps' },
    { name: 'python3-prometheus-client', present: () => hasEntry('/usr/lib/python3/dist-packages/prometheus_client') },
  ],
  bench: [{ name: 'stunnel4', command: 'stunnel4' }],
}

/** Checks node and cargo against the versions that package.json and Cargo.toml ask for. */
export async function checkToolchains() {
  const { engines } = await manifestOf('.')
  const wantedNode = engines.node.replace('>=', '')
  if (compareVersions(process.versions.node, wantedNode) < 0) {
    throw new Failure(`node ${wantedNode} or newer is needed, this is ${process.versions.node}`)
  }
  const cargoToml = await readFile(join(root, 'Cargo.toml'), 'utf8')
  const wantedRust = /^rust-version\s*=\s*"([\d.]+)"/m.exec(cargoToml)?.[1] ?? '0'
  const cargo = spawnSync('cargo', ['--version'], { cwd: root, encoding: 'utf8' })
  const foundRust = /^cargo (\d+\.\d+\.\d+)/.exec(cargo.stdout ?? '')?.[1]
  if (foundRust === undefined) throw new Failure('cargo is missing: install Rust (rustup, stable toolchain) and run this again')
  if (compareVersions(foundRust, wantedRust) < 0) throw new Failure(`cargo ${wantedRust} or newer is needed, this is ${foundRust}`)
}

/** Installs what is missing of the named groups when that is possible; otherwise fails and names each package. */
export async function ensurePackages(groups) {
  const missing = missingPackages(groups)
  if (missing.length === 0) return
  const command = `apt-get install --no-install-recommends ${missing.join(' ')}`
  if (!isDebian()) {
    throw new Failure(`missing on this machine, by the names of Debian's packages: ${missing.join(', ')}`)
  }
  if (process.getuid() !== 0) {
    throw new Failure(`missing: ${missing.join(', ')}\nrun this, then try again:\n  sudo ${command}`)
  }
  await install(missing)
  const still = missingPackages(groups)
  if (still.length > 0) throw new Failure(`apt-get succeeded, and these are still missing: ${still.join(', ')}`)
}

/** The names of the packages of `groups` that this machine lacks. */
function missingPackages(groups) {
  return groups
    .flatMap((group) => packages[group])
    .filter(({ command, present }) => !(command === undefined ? present() : hasCommand(command)))
    .map(({ name }) => name)
}

/** Finds an executable in PATH or in the folders for system programs, which a user's PATH often lacks. */
function hasCommand(name) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']
  return folders.some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK)
      return folder !== ''
    } catch {
      return false
    }
  })
}

const policyFile = '/usr/sbin/policy-rc.d'

async function install(names) {
  say(`installing ${names.length} Debian packages: ${names.join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  // The tests start their own servers on their own ports. Exit code 101 tells Debian's maintainer scripts not to start any.
  const guard = !existsSync(policyFile)
  const removeGuard = () => rmSync(policyFile, { force: true })
  if (guard) {
    writeFileSync(policyFile, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
    process.once('exit', removeGuard)
  }
  try {
    const update = await run('apt-get', ['-q', 'update'], { env })
    // A stale list often still serves; the install below says so if it does not.
    if (update.code !== 0) say('apt-get update failed; going on with the package lists that are there')
    await must('apt-get', ['-q', '-y', 'install', '--no-install-recommends', ...names], { env })
  } finally {
    if (guard) {
      removeGuard()
      process.removeListener('exit', removeGuard)
    }
  }
}

function isDebian() {
  return hasCommand('apt-get') && hasCommand('dpkg')
}

function hasLibclang() {
  if (process.env.LIBCLANG_PATH !== undefined) return true
  if (process.platform === 'darwin') return hasCommand('clang')
  return list('/usr/lib')
    .filter((name) => name.startsWith('llvm-'))
    .some((name) => list(join('/usr/lib', name, 'lib')).some((file) => /^libclang(-[\d.]+)?\.so/.test(file)))
}

function hasEntry(folder) {
  return list(folder).length > 0
}

function list(folder) {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
