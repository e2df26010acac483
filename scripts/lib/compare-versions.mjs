// The order of versions.

/** Which of two dotted versions is newer: below 0 the second, above 0 the first, 0 neither. A part that is missing counts as 0. */
export function compareVersions(one, other) {
  const [ours, theirs] = [one, other].map((version) => version.split('.').map(Number))
  for (let index = 0; index < Math.max(ours.length, theirs.length); index++) {
    const difference = (ours[index] ?? 0) - (theirs[index] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}
