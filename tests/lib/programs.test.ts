import { writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { Lab } from './netns.ts'
import { bigFile, dnsmasq, iperf3Server, mariadb, nginx, postgres, redis, sha256, sshd } from './programs.ts'

test('nginx serves a file and takes one', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  const { root } = await nginx(netns, 8080)
  const sum = await bigFile(`${root}/file`, 1_000_000)
  await netns.run('curl', ['-sSf', '-o', `${lab.dir}/got`, 'http://127.0.0.1:8080/file'])
  expect(await sha256(`${lab.dir}/got`)).toBe(sum)
  await netns.run('curl', ['-sSf', '-T', `${lab.dir}/got`, 'http://127.0.0.1:8080/in/file'])
  expect(await sha256(`${root}/in/file`)).toBe(sum)
})

test('PostgreSQL answers a query', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  await postgres(netns, 5432)
  const { stdout } = await netns.run('psql', ['-h', '127.0.0.1', '-U', 'postgres', '-Atc', 'select 6 * 7'])
  expect(stdout.trim()).toBe('42')
})

test('MariaDB takes a user with a password and answers a query', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  await mariadb(netns, 3306)
  const args = ['--no-defaults', '-h', '127.0.0.1', '-u', 'ztna', '-psecret', '-N', '-e', 'select 6 * 7', 'test']
  expect((await netns.run('mariadb', args)).stdout.trim()).toBe('42')
})

test('Redis, dnsmasq and iperf3 answer', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  await Promise.all([redis(netns, 6379), dnsmasq(netns, 53), iperf3Server(netns, 5201)])
  expect((await netns.run('redis-cli', ['ping'])).stdout.trim()).toBe('PONG')
  expect((await netns.run('dig', ['+short', '@127.0.0.1', 'h7.test'])).stdout.trim()).toBe('192.0.2.7')
  expect((await netns.run('iperf3', ['-c', '127.0.0.1', '-t', '1', '-J'])).stdout).toContain('sum_received')
})

test('sshd lets scp in with its key', async () => {
  await using lab = new Lab()
  const netns = await lab.netns('n')
  const { client } = await sshd(netns, 2222)
  writeFileSync(`${lab.dir}/from`, 'text')
  await netns.run('scp', [...client, '-P', '2222', `${lab.dir}/from`, `root@127.0.0.1:${lab.dir}/to`])
  expect(await sha256(`${lab.dir}/to`)).toBe(await sha256(`${lab.dir}/from`))
})
