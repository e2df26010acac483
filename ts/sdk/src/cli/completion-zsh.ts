/** The completion of zsh, with what each command and option is for. */
import type { Completed, CompletedCommand } from './command-tree.js'
import { SERVICE_NAMES, stepCases, taking } from './completion-parts.js'

/** The script for `tree`. */
export function zshScript(tree: readonly CompletedCommand[]): string {
  return `#compdef ztna
# Completion of ztna for zsh: written by \`ztna completion zsh\`.

# Names of services: those of the folder in --network, or else in $ZTNA_NETWORK.
_ztna_services() {
  local folder=$ZTNA_NETWORK i
  local -a services
  for ((i = 2; i < CURRENT; i++)); do
    [[ $words[i] == --network ]] && folder=$words[i+1]
  done
  [[ -r $folder/network.toml ]] || return 1
  services=(\${(f)"$(sed -n '${SERVICE_NAMES}' $folder/network.toml)"})
  _describe service services
}

_ztna() {
  local before= at= operand=0 i word
  local -a commands options values
  for ((i = 2; i < CURRENT; i++)); do
    word=$words[i]
    if [[ -n $before ]]; then
      before=
      continue
    fi
    case $word in
      (${taking(tree).join('|')}) before=$word ;;
      (-*) ;;
      (*)
        case $at/$word in
${stepCases(tree)}
          *) operand=$((operand + 1)) ;;
        esac
        ;;
    esac
  done
  case $at in
${tree.map((command) => `    (${quote(command.path)})\n${body(command)}\n      ;;`).join('\n')}
  esac
}

if [[ $funcstack[1] == _ztna ]]; then
  _ztna "$@"
else
  compdef _ztna ztna
fi
`
}

function body({ options, commands, operands }: CompletedCommand): string {
  const valued = options.flatMap(({ flag, value }) => (value === undefined ? [] : [`        (${flag}) ${offer(value)}; return ;;`]))
  const last = operands.length - 1
  const positional = operands.map((operand, at) => `          (${at === last ? '*' : at}) ${offer(operand)} ;;`)
  const words = commands.map(({ name, summary }) => described(name, summary))
  const other =
    words.length > 0
      ? `        commands=(${words.join(' ')})\n        _describe command commands`
      : positional.length === 0
        ? '        :'
        : `        case $operand in\n${positional.join('\n')}\n        esac`
  return `${valued.length === 0 ? '' : `      case $before in\n${valued.join('\n')}\n      esac\n`}      if [[ $PREFIX == -* ]]; then
        options=(${options.map(({ flag, summary }) => described(flag, summary)).join(' ')})
        _describe option options
      else
${other}
      fi`
}

function offer({ kind, choices }: Completed): string {
  if (kind === 'choice') return `values=(${choices.join(' ')}); _describe value values`
  if (kind === 'folder') return '_files -/'
  if (kind === 'file') return '_files'
  return kind === 'service' ? '_ztna_services' : ':'
}

// A colon parts the word from what is said of it.
const described = (word: string, summary: string): string => quote(`${word.replaceAll(':', '\\:')}:${summary}`)

const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`
