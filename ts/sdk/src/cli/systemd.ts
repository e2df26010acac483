/** What a service manager is told (sd_notify(3)); without `$NOTIFY_SOCKET` nothing. */
import { native } from '../native.js'

/** A role whose packet loops can be asked for a sign of life. */
export interface Alive {
  turn(then: () => void): void
}

/** Start-up is over, or a reload is. */
export function tellReady(): void {
  native().sdNotify('READY=1')
}

export function tellStopping(): void {
  native().sdNotify('STOPPING=1')
}

/** `tellReady` ends it. The time is CLOCK_MONOTONIC's in microseconds, which is what hrtime counts on Linux. */
export function tellReloading(): void {
  native().sdNotify(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1_000n}`)
}

/**
 * Pings the watchdog at a quarter of `$WATCHDOG_USEC`, once every packet loop has taken a turn since the ping was due: neither a
 * hung loop nor a hung Node keeps the process alive. Sends nothing when the variable is unset or meant for another process.
 */
export function startWatchdog(role: Alive, environment: NodeJS.ProcessEnv = process.env): () => void {
  const pid = environment['WATCHDOG_PID']
  const periodMs = Number(environment['WATCHDOG_USEC'] ?? 0) / 4_000
  if (!(periodMs >= 1) || (pid !== undefined && Number(pid) !== process.pid)) return () => {}
  const timer = setInterval(() => role.turn(() => native().sdNotify('WATCHDOG=1')), periodMs).unref()
  return () => clearInterval(timer)
}
