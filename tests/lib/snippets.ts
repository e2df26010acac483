/** The TypeScript of the documentation, as the compiler sees it. */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const TESTS = fileURLToPath(new URL('..', import.meta.url))
const PRELUDE = join(TESTS, 'fixtures', 'snippets-prelude.d.ts')

/** A block of code of a document. */
export interface Snippet {
  /** Document and line, as an editor takes them. */
  readonly at: string
  readonly code: string
}

/** Blocks of a document that are marked as of that language, in order. */
export function snippetsOf(file: string, language: 'ts' | 'sh' = 'ts'): Snippet[] {
  const text = readFileSync(file, 'utf8')
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map((match) => {
    const line = text.slice(0, match.index).split('\n').length + 1
    return { at: `${file}:${line}`, code: match[1] ?? '' }
  })
}

/** What the compiler says against each snippet, as a module of its own that has the names of snippets-prelude.d.ts besides; nothing where all is well. */
export function complaintsAbout(snippets: readonly Snippet[]): string[] {
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2023,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts', 'lib.dom.asynciterable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    noEmit: true,
    types: ['node'],
  }
  // In the folder of the tests, whose packages are those that the guides name.
  const modules = new Map(snippets.map(({ code }, at) => [join(TESTS, `snippet-${at}.mts`), `${code}\nexport {}\n`]))
  const disk = ts.createCompilerHost(options)
  const host: ts.CompilerHost = {
    ...disk,
    fileExists: (file) => modules.has(file) || disk.fileExists(file),
    readFile: (file) => modules.get(file) ?? disk.readFile(file),
    getSourceFile(file, ...rest) {
      const code = modules.get(file)
      return code === undefined ? disk.getSourceFile(file, ...rest) : ts.createSourceFile(file, code, ts.ScriptTarget.ES2023, true)
    },
  }
  const program = ts.createProgram([PRELUDE, ...modules.keys()], options, host)
  return ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, '\n')
    const snippet = snippets[Number(/^snippet-(\d+)\.mts$/.exec(basename(file?.fileName ?? ''))?.[1])]
    if (file === undefined || snippet === undefined) return `${file?.fileName ?? 'options'}: ${message}`
    const line = file.getLineAndCharacterOfPosition(start ?? 0).line
    return `${snippet.at}, its line ${line + 1}: ${message}`
  })
}
