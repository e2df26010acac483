/** A network source whose content the test network changes while roles run. */
import type { NetworkContent } from '../network-source.js'
import { TEST_PLACE, type TestPlace } from '../test-place.js'

/** Hands its content to every reader, and again whenever it changes. */
export class LiveSource implements AsyncIterable<NetworkContent> {
  readonly [TEST_PLACE]: TestPlace
  readonly #readers = new Set<() => void>()
  #content: NetworkContent
  #version = 1

  constructor(place: TestPlace, content: NetworkContent) {
    this[TEST_PLACE] = place
    this.#content = content
  }

  get content(): NetworkContent {
    return this.#content
  }

  set content(content: NetworkContent) {
    this.#content = content
    this.#version += 1
    for (const wake of this.#readers) wake()
    this.#readers.clear()
  }

  [Symbol.asyncIterator](): AsyncIterator<NetworkContent> {
    let seen = 0
    let ended = false
    let wake = (): void => {}
    const next = async (): Promise<IteratorResult<NetworkContent>> => {
      if (!ended && seen === this.#version) {
        await new Promise<void>((resolve) => {
          wake = resolve
          this.#readers.add(resolve)
        })
      }
      if (ended) return { done: true, value: undefined }
      seen = this.#version
      return { done: false, value: this.#content }
    }
    const end = async (): Promise<IteratorResult<NetworkContent>> => {
      ended = true
      this.#readers.delete(wake)
      wake()
      return { done: true, value: undefined }
    }
    return { next, return: end }
  }
}
