import { defineConfig } from 'vitest/config'

// Forks: the product is a native addon, and namespaces belong to the process that made them. One file at a time: the machine
// has few cores, and a test that measures a second must not share it with a gigabyte.
export default defineConfig({
  oxc: { target: 'node20' },
  test: {
    include: ['lib/**/*.test.ts', 'e2e/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    setupFiles: ['lib/setup.ts'],
    globalSetup: ['lib/global-setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    allowOnly: false,
  },
})
