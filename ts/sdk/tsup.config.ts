import { defineConfig } from 'tsup'

export default defineConfig([
  {
    entry: {
      index: 'src/index.ts',
      testing: 'src/testing.ts',
      express: 'src/express.ts',
      fastify: 'src/fastify.ts',
      hono: 'src/hono.ts',
    },
    format: ['esm', 'cjs'],
    // One copy of the classes for all entries, in CommonJS too: `instanceof ZtnaError` has to hold whichever one threw.
    splitting: true,
    target: 'node20',
    // `import.meta.url`, by which the loader finds the addon, has to exist in the CommonJS build too.
    shims: true,
    sourcemap: true,
    dts: { compilerOptions: { ignoreDeprecations: '6.0' } },
    external: ['@ztna/native'],
  },
  {
    entry: { cli: 'src/cli.ts' },
    format: ['esm'],
    target: 'node20',
    sourcemap: true,
    banner: { js: '#!/usr/bin/env node' },
    external: ['@ztna/native'],
  },
])
