declare module 'morgan' {
  import type { RequestHandler } from 'express'

  export default function morgan(format: string, options: { readonly stream: { write(line: string): void } }): RequestHandler
}
