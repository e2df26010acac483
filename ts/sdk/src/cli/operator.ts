/** What a role offers its operator on this machine: the control socket and the metrics. Bound before it starts, so that a mistake is told before anything has begun. */
import { join } from 'node:path'
import type { Logger } from '../logger.js'
import { type AnyRole, answer } from './answer.js'
import type { Settings } from './config.js'
import { runtimeDir, serveControl } from './control.js'
import type { HostPort } from './grammar.js'
import { type Reason, serveMetrics } from './metrics.js'
import { ownName } from './own-network.js'

/** How a role's operator reaches it. */
export interface OperatorPorts {
  /** Where the metrics are, `127.0.0.1:9100`. */
  readonly metrics?: string
  /** Idempotent. */
  readonly close: () => void
}

/**
 * Requests to the control socket are answered once `begun` resolves. Errors: ERR_ZTNA_CONFIG or ERR_ZTNA_PERMISSION naming the path or address, and what to
 * do; then nothing is bound.
 */
export async function serveOperator(
  role: AnyRole,
  settings: Settings,
  metrics: HostPort | undefined,
  begun: Promise<void>,
  logger: Logger,
  reason: Reason,
): Promise<OperatorPorts> {
  const open: (() => void)[] = []
  const close = (): void => open.splice(0).forEach((undo) => undo())
  try {
    const path = await controlPath(settings, logger)
    if (path !== undefined) open.push((await serveControl(path, async (request) => begun.then(() => answer(role, request)))).close)
    if (metrics === undefined) return { close }
    const served = await serveMetrics(role, metrics, reason, () => unreadableSince(role))
    open.push(served.close)
    return { metrics: served.address, close }
  } catch (error) {
    close()
    throw error
  }
}

async function controlPath(settings: Settings, logger: Logger): Promise<string | undefined> {
  const given = settings.text('control')
  if (given !== undefined) return given
  const [dir, name] = [runtimeDir(), await ownName(settings.text('network') ?? '')]
  if (dir === undefined) logger.warn({}, 'XDG_RUNTIME_DIR is not set: no control socket; name one with --control PATH')
  // Without a name in its certificate the role does not start.
  return dir === undefined || name === undefined ? undefined : join(dir, `${settings.role}-${name}.sock`)
}

// Undefined too while the role does not run: its state says so.
function unreadableSince(role: AnyRole): Date | undefined {
  try {
    return role.status().folderUnreadableSince
  } catch {
    return undefined
  }
}
