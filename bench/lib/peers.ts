import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lab, Netns } from '../../tests/lib/netns.ts'
import { listening, sshd } from '../../tests/lib/programs.ts'
import { selfSigned } from '../../tests/lib/self-signed.ts'

/** stunnel in both namespaces with `relay` as a plain router between them; the client's port reaches `target` at the server. */
export async function stunnel(lab: Lab, client: Netns, server: Netns, serverAddress: string, port: number, target: number): Promise<void> {
  const pem = join(lab.dir, 'stunnel.pem')
  const { cert, key } = await selfSigned('bench')
  writeFileSync(pem, `${key}${cert}`, { mode: 0o600 })
  writeFileSync(`${pem}.crt`, cert)
  const write = (name: string, body: string): string => {
    const file = join(lab.dir, name)
    writeFileSync(file, `foreground = yes\npid =\n${body}`)
    return file
  }
  const s = write(
    'stunnel-server.conf',
    `cert = ${pem}\nverify = 2\nCAfile = ${pem}.crt\n[s]\naccept = ${serverAddress}:7443\nconnect = 127.0.0.1:${target}\n`,
  )
  const c = write(
    'stunnel-client.conf',
    `cert = ${pem}\nclient = yes\nverify = 2\nCAfile = ${pem}.crt\n[c]\naccept = 127.0.0.1:${port}\nconnect = ${serverAddress}:7443\n`,
  )
  await listening(server, 7443, lab.spawn(server, 'stunnel', [s], { label: 'stunnel server' }))
  await listening(client, port, lab.spawn(client, 'stunnel', [c], { label: 'stunnel client' }))
}

/** `ssh -L port` from client to server. */
export async function sshForward(
  lab: Lab,
  client: Netns,
  server: Netns,
  serverAddress: string,
  port: number,
  target: number,
): Promise<void> {
  const { client: options } = await sshd(server, 2222, serverAddress)
  const args = [
    ...options,
    '-o',
    'ExitOnForwardFailure=yes',
    '-N',
    '-p',
    '2222',
    '-L',
    `127.0.0.1:${port}:127.0.0.1:${target}`,
    `root@${serverAddress}`,
  ]
  await listening(client, port, lab.spawn(client, 'ssh', args, { label: 'ssh -L' }))
}
