// A DNS client, which wants a socket of node:dgram: node dgram.mjs [name] [service:port]   (ZTNA_NETWORK names the trust folder)
import { ZtnaAgent } from '@ztna/sdk'
import dnsSocket from 'dns-socket'

const [name = 'h7.test', target = 'dns:53'] = process.argv.slice(2)
const agent = await new ZtnaAgent().start()
const flow = await agent.datagram(target)
const dns = dnsSocket({ socket: flow.asDgramSocket(), timeout: 1_000 })

const { answers } = await new Promise((resolve, reject) => {
  const query = { questions: [{ type: 'A', name }] }
  dns.query(query, flow.port, flow.service, (error, response) => (error ? reject(error) : resolve(response)))
})
console.log(answers.map((answer) => answer.data).join(' '))

dns.destroy()
await agent.close()
