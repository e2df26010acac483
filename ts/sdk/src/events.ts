/** A role's events as a bounded async iterator. */
import { countOf, optionsOf, signalOf } from './arguments.js'
import { ZtnaError } from './errors.js'

/** Any map of event names to argument lists. */
export type EventMap<E> = Record<keyof E, unknown[]>

/** One event of the map `E`, tagged by `type`. */
export type EventOf<E extends EventMap<E>> = {
  [K in keyof E]: {
    /** Name of the event. */
    type: K
    /** What listeners get. */
    args: E[K]
    /** When it was emitted. */
    at: Date
  }
}[keyof E]

/** How to iterate over events. */
export interface EventsOptions {
  /** Ends the iteration, without an error. */
  signal?: AbortSignal
  /** Events kept for a slow reader; the oldest go first and a `warning` says how many. Default 1024. */
  highWaterMark?: number
}

/** Where one iterator is fed and ended. */
export interface EventTap<E extends EventMap<E>> {
  push(event: EventOf<E>): void
  end(): void
}

/** Makes an iterator and its tap. `onEnd` runs once, when the iterator is finished with. */
export function eventQueue<E extends EventMap<E>>(
  options: EventsOptions,
  onEnd: (tap: EventTap<E>) => void,
): { tap: EventTap<E>; iterator: AsyncIterableIterator<EventOf<E>> } {
  const { signal, highWaterMark = 1024 } = optionsOf(options, 'options of events()', ['signal', 'highWaterMark'])
  signalOf(signal)
  const limit = Math.max(1, countOf(highWaterMark, 'highWaterMark') ?? 1)
  const queue: EventOf<E>[] = []
  const waiting: ((result: IteratorResult<EventOf<E>>) => void)[] = []
  const done: IteratorReturnResult<undefined> = { done: true, value: undefined }
  let dropped = 0
  let ended = false

  const tap: EventTap<E> = {
    push(event) {
      if (ended) return
      const reader = waiting.shift()
      if (reader !== undefined) return reader({ done: false, value: event })
      queue.push(event)
      if (queue.length <= limit) return
      queue.shift()
      dropped += 1
    },
    end() {
      if (ended) return
      ended = true
      signal?.removeEventListener('abort', onAbort)
      for (const reader of waiting.splice(0)) reader(done)
      onEnd(tap)
    },
  }
  const onAbort = (): void => {
    queue.length = 0
    tap.end()
  }
  if (signal?.aborted) onAbort()
  else signal?.addEventListener('abort', onAbort, { once: true })

  const take = (): EventOf<E> | undefined => {
    if (dropped === 0) return queue.shift()
    const error = new ZtnaError('ERR_ZTNA_LIMIT', `${dropped} events dropped: read faster or raise highWaterMark`)
    dropped = 0
    return { type: 'warning', args: [error], at: new Date() } as unknown as EventOf<E>
  }
  const iterator: AsyncIterableIterator<EventOf<E>> = {
    next() {
      const value = take()
      if (value !== undefined) return Promise.resolve({ done: false, value })
      if (ended) return Promise.resolve(done)
      return new Promise((resolve) => waiting.push(resolve))
    },
    return() {
      onAbort()
      return Promise.resolve(done)
    },
    [Symbol.asyncIterator]() {
      return iterator
    },
  }
  return { tap, iterator }
}
