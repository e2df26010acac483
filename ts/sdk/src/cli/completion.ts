/** `ztna completion`: scripts that make a shell complete commands, options, their values, and names of services. */
import { Argument, type Command } from 'commander'
import { type CompletedCommand, commandTree } from './command-tree.js'
import { bashScript } from './completion-bash.js'
import { fishScript } from './completion-fish.js'
import { zshScript } from './completion-zsh.js'
import { withExamples } from './examples.js'

const SCRIPTS: Readonly<Record<string, (tree: readonly CompletedCommand[]) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
}

/** Adds `completion`, which knows every command that has been added by the time it runs. */
export function addCompletion(program: Command): void {
  const command = program.command('completion').description('print a script that makes a shell complete this command line')
  withExamples(command, [
    'ztna completion bash > /etc/bash_completion.d/ztna',
    'ztna completion zsh > /usr/local/share/zsh/site-functions/_ztna',
    'ztna completion fish > ~/.config/fish/completions/ztna.fish',
    'source <(ztna completion bash)',
  ])
    .addArgument(new Argument('<SHELL>', 'which shell').choices(Object.keys(SCRIPTS)))
    .action((shell: string) => void process.stdout.write(SCRIPTS[shell]?.(commandTree(program)) ?? ''))
}
