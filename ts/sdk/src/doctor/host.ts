/** Checks of the machine: what the system allows a role. */
import { readFileSync } from 'node:fs'
import { type Finding, ok, warn } from './check.js'

/** Receive buffer that a role asks for, bytes: `KERNEL_BUFFER` of crates/ztna-core/src/io/udp.rs. */
const RECEIVE_BUFFER = 8 << 20
/** Open files below which a busy connector soon refuses flows: docs/operations.md, File descriptors. */
const FEW_FILES = 4_096

/** `receive-buffer` and `open-files`. `read`: gives a file of /proc, or throws. */
export function checkHost(read: (path: string) => string = (path) => readFileSync(path, 'utf8')): Finding[] {
  return [...receiveBuffer(read), ...openFiles(read)]
}

function receiveBuffer(read: (path: string) => string): Finding[] {
  const [check, key] = ['receive-buffer', 'net.core.rmem_max']
  const most = Number(contents(read, '/proc/sys/net/core/rmem_max') ?? Number.NaN)
  // Elsewhere than on Linux it is not limited so.
  if (Number.isNaN(most)) return []
  if (mayForce(read)) return [ok(check, `${key} is ${most} bytes, and does not bind this process (CAP_NET_ADMIN)`)]
  if (most >= RECEIVE_BUFFER) return [ok(check, `${key} is ${most} bytes`)]
  const detail = `${key} is ${most} bytes, and a role asks for ${RECEIVE_BUFFER}: bursts that do not fit are lost`
  return [warn(check, detail, `sysctl -w ${key}=${RECEIVE_BUFFER}, and the same line in /etc/sysctl.d/ztna.conf`)]
}

/** CAP_NET_ADMIN, capability 12, may exceed it (SO_RCVBUFFORCE, socket(7)). */
function mayForce(read: (path: string) => string): boolean {
  const [, mask = '0'] = /^CapEff:\s+([0-9a-f]+)/m.exec(contents(read, '/proc/self/status') ?? '') ?? []
  return ((BigInt(`0x${mask}`) >> 12n) & 1n) === 1n
}

function openFiles(read: (path: string) => string): Finding[] {
  const check = 'open-files'
  const [, hard = ''] = /^Max open files\s+\S+\s+(\S+)/m.exec(contents(read, '/proc/self/limits') ?? '') ?? []
  if (hard === '') return []
  if (hard === 'unlimited' || Number(hard) >= FEW_FILES) return [ok(check, `up to ${hard}`)]
  return [
    warn(check, `${hard} at most, and each flow takes one or two`, 'LimitNOFILE=65536 in the unit of the role, or `ulimit -Hn 65536`'),
  ]
}

function contents(read: (path: string) => string, path: string): string | undefined {
  try {
    return read(path).trim()
  } catch {
    return undefined
  }
}
