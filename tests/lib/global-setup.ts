import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { removeStale } from './netns.ts'

/** Debian's package of each program that the tests start. */
const PROGRAMS: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  nft: 'nftables',
  nginx: 'nginx-light',
  miniupnpd: 'miniupnpd-nftables',
  mariadbd: 'mariadb-server',
  'redis-server': 'redis-server',
  'redis-benchmark': 'redis-tools',
  sshd: 'openssh-server',
  scp: 'openssh-client',
  dnsmasq: 'dnsmasq-base',
  dig: 'bind9-dnsutils',
  iperf3: 'iperf3',
  openssl: 'openssl',
  curl: 'curl',
}

export default function setup(): void {
  if (process.getuid?.() !== 0) throw new Error('the end-to-end tests make network namespaces and need root: run them as root')
  const path = `${process.env['PATH'] ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`
  process.env['PATH'] = path
  const missing = Object.entries(PROGRAMS).filter(([name]) => !path.split(delimiter).some((dir) => existsSync(join(dir, name))))
  if (!existsSync('/usr/lib/postgresql')) missing.push(['initdb', 'postgresql'])
  const parser = 'python3-prometheus-client'
  if (!existsSync('/usr/lib/python3/dist-packages/prometheus_client')) missing.push([parser, parser])
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, debian]) => debian))].join(' ')
    throw new Error(`missing: ${missing.map(([name]) => name).join(', ')}. Install them: apt-get install ${packages}`)
  }
  removeStale()
}
