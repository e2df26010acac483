/** The completion of fish, with what each command and option is for. */
import type { Completed, CompletedCommand } from './command-tree.js'
import { SERVICE_NAMES, steps, taking } from './completion-parts.js'

/** The script for `tree`. */
export function fishScript(tree: readonly CompletedCommand[]): string {
  const known = steps(tree).map(({ from, word }) => quote(`${from}/${word}`))
  return `# Completion of ztna for fish: written by \`ztna completion fish\`.

# The command that the line has come to, such as \`pki issue\`.
function __ztna_at
    set -l known ${known.join(' ')}
    set -l taking ${taking(tree).join(' ')}
    set -l at ''
    set -l value no
    for word in (commandline -opc)[2..-1]
        if test $value = yes
            set value no
        else if contains -- $word $taking
            set value yes
        else if contains -- "$at/$word" $known
            set at (string trim -- "$at $word")
        end
    end
    echo -- $at
end

function __ztna_is
    set -l at (__ztna_at)
    test "$at" = "$argv[1]"
end

# Names of services: those of the folder in --network, or else in $ZTNA_NETWORK.
function __ztna_services
    set -l folder $ZTNA_NETWORK
    set -l words (commandline -opc)
    if set -l at (contains -i -- --network $words)
        set folder $words[(math $at + 1)]
    end
    if test -r "$folder/network.toml"
        sed -n '${SERVICE_NAMES}' "$folder/network.toml"
    end
end

complete -c ztna -f
${tree.map(lines).join('\n')}
`
}

function lines({ path, commands, options, operands }: CompletedCommand): string {
  const here = `complete -c ztna -n ${quote(`__ztna_is ${quote(path)}`)}`
  const names = commands.map(({ name, summary }) => `${here} -a ${name} -d ${quote(summary)}`)
  const flags = options.map(({ flag, summary, value }) => {
    const what = value === undefined ? '' : ` -r${offer(value)}`
    return `${here} -l ${flag.replace(/^--/, '')}${what} -d ${quote(summary)}`
  })
  // Which operand it is fish does not say: all are offered.
  const rest =
    commands.length > 0
      ? []
      : [...new Set(operands.map((operand) => offer(operand)))].filter((each) => each !== '').map((each) => `${here}${each}`)
  return [...names, ...flags, ...rest].join('\n')
}

function offer({ kind, choices }: Completed): string {
  if (kind === 'choice') return ` -a ${quote(choices.join(' '))}`
  if (kind === 'folder') return " -a '(__fish_complete_directories)'"
  if (kind === 'file') return ' -F'
  return kind === 'service' ? " -a '(__ztna_services)'" : ''
}

const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
