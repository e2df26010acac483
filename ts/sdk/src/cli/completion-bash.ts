/** The completion of bash, from version 3.2 on and without the package bash-completion. */
import type { Completed, CompletedCommand } from './command-tree.js'
import { SERVICE_NAMES, stepCases, taking } from './completion-parts.js'

/** The script for `tree`. */
export function bashScript(tree: readonly CompletedCommand[]): string {
  return `# Completion of ztna for bash: written by \`ztna completion bash\`.

# Names of services: those of the folder in --network, or else in $ZTNA_NETWORK.
_ztna_services() {
  local folder=$ZTNA_NETWORK i
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ \${COMP_WORDS[i]} == --network ]] && folder=\${COMP_WORDS[i + 1]}
  done
  [[ -r $folder/network.toml ]] && sed -n '${SERVICE_NAMES}' "$folder/network.toml"
}

_ztna() {
  local IFS=$'\\n' cur=\${COMP_WORDS[COMP_CWORD]} before= at= operand=0 i word
  # The value behind an = is a word of its own, and so is the = itself.
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [[ $word == '=' ]] && continue
    if [[ -n $before ]]; then
      before=
      continue
    fi
    case $word in
      ${taking(tree).join('|')}) before=$word ;;
      -*) ;;
      *)
        case $at/$word in
${stepCases(tree)}
          *) operand=$((operand + 1)) ;;
        esac
        ;;
    esac
  done
  [[ $cur == '=' ]] && cur=
  COMPREPLY=()
  case $at in
${tree.map((command) => `    ${quote(command.path)})\n${body(command)}\n      ;;`).join('\n')}
  esac
}

complete -F _ztna ztna
`
}

function body({ options, commands, operands }: CompletedCommand): string {
  const valued = options.flatMap(({ flag, value }) => (value === undefined ? [] : [`        ${flag}) ${offer(value)}; return ;;`]))
  const words = commands.map(({ name }) => name)
  const last = operands.length - 1
  const positional = operands.map((operand, at) => `          ${at === last ? '*' : at}) ${offer(operand)} ;;`)
  const other =
    words.length > 0
      ? `        ${list(words)}`
      : positional.length === 0
        ? '        :'
        : `        case $operand in\n${positional.join('\n')}\n        esac`
  return `${valued.length === 0 ? '' : `      case $before in\n${valued.join('\n')}\n      esac\n`}      if [[ $cur == -* ]]; then
        ${list(options.map(({ flag }) => flag))}
      else
${other}
      fi`
}

// Escapes what is special in a name, and ends a folder with a slash; bash 3.2 can't for one word alone.
const NAMES_FILES = 'compopt -o filenames 2> /dev/null; '

function offer({ kind, choices }: Completed): string {
  if (kind === 'choice') return list(choices)
  if (kind === 'folder') return `${NAMES_FILES}COMPREPLY=($(compgen -d -- "$cur"))`
  if (kind === 'file') return `${NAMES_FILES}COMPREPLY=($(compgen -f -- "$cur"))`
  return kind === 'service' ? 'COMPREPLY=($(compgen -W "$(_ztna_services)" -- "$cur"))' : ':'
}

// The words are separated as $IFS says there.
const list = (words: readonly string[]): string => `COMPREPLY=($(compgen -W $'${words.join('\\n')}' -- "$cur"))`

const quote = (text: string): string => `'${text}'`
