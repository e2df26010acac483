/** What `build` makes of `owned`, which is disposed of when that fails. */
export async function orDispose<T>(owned: AsyncDisposable, build: () => Promise<T>): Promise<T> {
  try {
    return await build()
  } catch (error) {
    await owned[Symbol.asyncDispose]()
    throw error
  }
}
