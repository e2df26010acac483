// The addon lives in one process with Node's own OpenSSL. It must therefore show nothing but its entry point, and take
// nothing of TLS from the process: either would mix BoringSSL's functions with OpenSSL's of the same name.
//
//   node scripts/symbols.mjs [FILE]     the addon of this machine, unless a file of this machine's system is named
import { callersPath, isMain, main, must, report } from './lib/process.mjs'
import { addonFile } from './lib/target.mjs'

const foreign = /^(SSL|EVP|CRYPTO|RAND|X509|ERR|BIO|RSA|EC|BN|ASN1|PEM)_/

/** Returns one sentence for each symbol that should not be there. */
export async function symbols(file = addonFile()) {
  // macOS has no dynamic table apart; -g lists what is global, with a leading underscore.
  const table = process.platform === 'darwin' ? ['-g'] : ['-D']
  const defined = await names(file, [...table, process.platform === 'darwin' ? '-U' : '--defined-only'])
  const undefinedNames = await names(file, [...table, '-u'])
  const findings = defined
    .filter((name) => name !== 'napi_register_module_v1')
    .map((name) => `${file} exports ${name}; only napi_register_module_v1 may be exported`)
  if (!defined.includes('napi_register_module_v1')) findings.push(`${file} does not export napi_register_module_v1`)
  for (const name of undefinedNames.filter((name) => foreign.test(name))) {
    findings.push(`${file} would take ${name} from the process it is loaded into`)
  }
  return findings
}

async function names(file, flags) {
  const { output } = await must('nm', [...flags, file], { stdoutOnly: true })
  return output
    .split('\n')
    .map((line) => line.trim().split(/\s+/).at(-1) ?? '')
    .filter((name) => name !== '')
    .map((name) => (process.platform === 'darwin' ? name.replace(/^_/, '') : name).replace(/@.*$/, ''))
}

if (isMain(import.meta.url)) {
  await main(async () => report(await symbols(process.argv[2] && callersPath(process.argv[2]))))
}
