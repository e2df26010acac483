import { chownSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Netns } from './netns.ts'
import { run, type Proc } from './proc.ts'

/** All listen on 127.0.0.1 of the namespace, with their files in the lab's folder, and end with the lab. */
const HOST = '127.0.0.1'
let counter = 0

function folder(netns: Netns, program: string): string {
  counter += 1
  const dir = join(netns.lab.dir, `${program}-${counter}`)
  mkdirSync(dir, { mode: 0o755 })
  return dir
}

/** What nginx is to do beyond a page. */
export interface NginxOptions {
  readonly root?: string
  readonly unix?: string
  /** Speaks TLS, and HTTP/2 with those who choose it. */
  readonly tls?: { readonly cert: string; readonly key: string }
}

/** nginx serving `root` for GET and taking PUT into `root`/in; /protocol answers with the version of HTTP. */
export async function nginx(netns: Netns, port: number, o: NginxOptions = {}): Promise<{ root: string; proc: Proc }> {
  const dir = folder(netns, 'nginx')
  const root = o.root ?? join(dir, 'root')
  mkdirSync(join(root, 'in'), { recursive: true })
  const config = join(dir, 'nginx.conf')
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${dir}/${kind};`).join(' ')
  if (o.tls !== undefined) {
    writeFileSync(join(dir, 'cert.pem'), o.tls.cert)
    writeFileSync(join(dir, 'key.pem'), o.tls.key, { mode: 0o600 })
  }
  const tls = o.tls === undefined ? '' : `ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem;`
  writeFileSync(
    config,
    `user root; daemon off; worker_processes 2; worker_rlimit_nofile 8192; pid ${dir}/pid; error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off; ${temp} sendfile on; client_max_body_size 0; keepalive_timeout 300s; keepalive_requests 1000000;
  server {
    listen ${HOST}:${port}${o.tls === undefined ? '' : ' ssl http2'}; ${tls} ${o.unix === undefined ? '' : `listen unix:${o.unix};`}
    root ${root};
    location = /protocol { return 200 "$server_protocol\\n"; }
    location = /hello { return 200 "hello\\n"; }
    location /in/ { dav_methods PUT; client_body_temp_path ${root}/in; }
  }
}
`,
  )
  const proc = netns.spawn('nginx', ['-e', 'stderr', '-p', dir, '-c', config], { label: 'nginx' })
  await listening(netns, port, proc)
  return { root, proc }
}

/** PostgreSQL with user postgres, trusted over TCP, in a fresh cluster; with a certificate it speaks TLS with those who ask for it. */
export async function postgres(
  netns: Netns,
  port: number,
  o: { tls?: { readonly cert: string; readonly key: string } } = {},
): Promise<{ proc: Proc; bin: string }> {
  const versions = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql').sort((a, b) => Number(a) - Number(b)) : []
  const version = versions.at(-1)
  if (version === undefined) throw new Error('PostgreSQL is missing: apt-get install postgresql')
  const bin = `/usr/lib/postgresql/${version}/bin`
  const dir = folder(netns, 'postgres')
  const [uid, gid] = await Promise.all(['-u', '-g'].map(async (flag) => Number((await run(null, 'id', [flag, 'postgres'])).stdout)))
  if (uid === undefined || gid === undefined) throw new Error('there is no user postgres')
  chownSync(dir, uid, gid)
  const as = ['-u', 'postgres', '--']
  await run(null, 'runuser', [...as, `${bin}/initdb`, '-D', `${dir}/data`, '-A', 'trust', '--no-sync', '-E', 'UTF8', '--locale', 'C'], {
    cwd: dir,
  })
  if (o.tls !== undefined) {
    for (const [name, text] of [
      ['cert', o.tls.cert],
      ['key', o.tls.key],
    ] as const) {
      writeFileSync(`${dir}/${name}.pem`, text, { mode: 0o600 })
      chownSync(`${dir}/${name}.pem`, uid, gid)
    }
  }
  const settings = {
    ...(o.tls === undefined ? {} : { ssl: 'on', ssl_cert_file: `${dir}/cert.pem`, ssl_key_file: `${dir}/key.pem` }),
    listen_addresses: HOST,
    port,
    unix_socket_directories: dir,
    fsync: 'off',
    max_connections: 200,
    log_min_messages: 'warning',
  }
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const proc = netns.spawn(
    'setpriv',
    [`--reuid=${uid}`, `--regid=${gid}`, '--init-groups', `${bin}/postgres`, '-D', `${dir}/data`, ...args],
    { cwd: dir, label: 'postgres' },
  )
  await listening(netns, port, proc)
  await until('PostgreSQL accepts connections', async () => {
    const { code } = await run(netns, `${bin}/pg_isready`, ['-h', HOST, '-p', String(port)], { codes: 'any' })
    return code === 0
  })
  return { proc, bin }
}

/** MariaDB with user `ztna`, password `secret`, who may do everything in the empty database `test`. */
export async function mariadb(netns: Netns, port: number): Promise<Proc> {
  const dir = folder(netns, 'mariadb')
  const data = join(dir, 'data')
  const socket = join(dir, 'socket')
  await run(null, 'mariadb-install-db', [
    '--no-defaults',
    `--datadir=${data}`,
    '--user=root',
    '--auth-root-authentication-method=normal',
    '--skip-test-db',
  ])
  const init = join(dir, 'init.sql')
  writeFileSync(
    init,
    ['CREATE DATABASE test;', "CREATE USER ztna@'127.0.0.1' IDENTIFIED BY 'secret';", "GRANT ALL ON test.* TO ztna@'127.0.0.1';", ''].join(
      '\n',
    ),
  )
  const proc = netns.spawn(
    'mariadbd',
    [
      '--no-defaults',
      '--user=root',
      `--datadir=${data}`,
      `--bind-address=${HOST}`,
      `--port=${port}`,
      `--socket=${socket}`,
      `--pid-file=${dir}/pid`,
      `--init-file=${init}`,
      '--innodb-flush-log-at-trx-commit=0',
    ],
    { label: 'mariadb' },
  )
  await listening(netns, port, proc)
  return proc
}

export async function redis(netns: Netns, port: number): Promise<Proc> {
  const dir = folder(netns, 'redis')
  const proc = netns.spawn('redis-server', ['--bind', HOST, '--port', String(port), '--dir', dir, '--save', '', '--appendonly', 'no'], {
    label: 'redis',
  })
  await listening(netns, port, proc)
  return proc
}

/** sshd for root with a key made for it; `client` are the options for ssh and scp (without the port). */
export async function sshd(netns: Netns, port: number, address = HOST): Promise<{ proc: Proc; client: readonly string[] }> {
  const dir = folder(netns, 'sshd')
  await run(null, 'ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', `${dir}/host`])
  await run(null, 'ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', `${dir}/user`])
  // Privilege separation needs this empty folder, which Debian's unit makes at boot.
  mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })
  const config = join(dir, 'sshd_config')
  writeFileSync(
    config,
    `ListenAddress ${address}:${port}
HostKey ${dir}/host
AuthorizedKeysFile ${dir}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
`,
  )
  const proc = netns.spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { label: 'sshd' })
  await listening(netns, port, proc)
  const client = [
    '-F',
    'none',
    '-i',
    `${dir}/user`,
    '-o',
    'BatchMode=yes',
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    'UserKnownHostsFile=/dev/null',
    '-o',
    'LogLevel=ERROR',
  ]
  return { proc, client }
}

/** dnsmasq that answers hN.test with 192.0.2.(N mod 256) for N below `names`, and nothing else. */
export async function dnsmasq(netns: Netns, port: number, names = 1000): Promise<Proc> {
  const dir = folder(netns, 'dnsmasq')
  const hosts = join(dir, 'hosts')
  writeFileSync(hosts, Array.from({ length: names }, (_, n) => `192.0.2.${n % 256} h${n}.test\n`).join(''))
  const args = [
    '--keep-in-foreground',
    '--conf-file=/dev/null',
    `--port=${port}`,
    `--listen-address=${HOST}`,
    '--bind-interfaces',
    '--no-resolv',
    '--no-hosts',
    `--addn-hosts=${hosts}`,
    '--user=root',
    '--log-facility=-',
    `--pid-file=${dir}/pid`,
  ]
  const proc = netns.spawn('dnsmasq', args, { label: 'dnsmasq' })
  await proc.waitFor(/read .*hosts/)
  return proc
}

export async function iperf3Server(netns: Netns, port: number, address = HOST): Promise<Proc> {
  const proc = netns.spawn('iperf3', ['-s', '-B', address, '-p', String(port), '--forceflush'], { label: 'iperf3 -s' })
  await listening(netns, port, proc)
  return proc
}

/** Waits until a TCP port of `netns` answers on 127.0.0.1; rejects at once when `proc` ends first. */
export async function listening(netns: Netns, port: number, proc?: Proc): Promise<void> {
  await until(`port ${port} of ${netns.name} is open`, async () => {
    if (proc?.exit) throw new Error(`${proc.label} ended\n${proc.tail()}`)
    const { stdout } = await run(netns, 'ss', ['-Hltn', `sport = :${port}`])
    return stdout !== ''
  })
}

/** Asks every 50 ms until the answer is yes. */
export async function until(what: string, ask: () => boolean | Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!(await ask())) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** What `ended` gives; fails where a timer of `ms` fires first, which starts now. `ms`: a limit of the product that it must not have waited for. */
export async function sooner<T>(ms: number, ended: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it did not end before the limit of ${ms} ms`)), ms)
  })
  return Promise.race([ended, late]).finally(() => clearTimeout(timer))
}

/** A file of pseudo-random bytes (AES-CTR of zeroes), the same for the same name and size; returns its SHA-256. */
export async function bigFile(path: string, bytes: number): Promise<string> {
  await run(
    null,
    'bash',
    [
      '-c',
      'head -c "$1" /dev/zero | openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv 00000000000000000000000000000000 > "$2"',
      'bash',
      String(bytes),
      path,
    ],
    { timeoutMs: 120_000 },
  )
  return sha256(path)
}
export async function sha256(path: string): Promise<string> {
  const { stdout } = await run(null, 'openssl', ['dgst', '-sha256', '-r', path], { timeoutMs: 120_000 })
  return stdout.split(' ')[0] ?? ''
}
