"""`completion`: the scripts that make a shell ask `proa __complete` what may follow.

The scripts know nothing of proa's commands, so that they need not be written anew with each version.
"""

import os

from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed

_BASH = r"""# bash completion for proa; source <(proa completion bash)

_proa() {
    local line=${COMP_LINE:0:COMP_POINT} words reply directive current kept name
    COMPREPLY=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    reply=$("${words[0]/#\~/$HOME}" __completeNoDesc "${words[@]:1}" 2>/dev/null) || return
    directive=${reply##*:}
    current=${words[-1]}
    [[ $current == --*=* ]] && current=${current#*=}
    # Readline replaces only what stands behind the last of these marks.
    kept=${current%"${current##*[=:]}"}
    while IFS= read -r name; do
        [[ -n $name && $name == "$current"* ]] && COMPREPLY+=("${name#"$kept"}")
    done <<<"${reply%:*}"
    ((directive & 2)) && compopt -o nospace
    if ((directive & 16)); then
        compopt -o filenames
        while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -d -- "$current")
    elif ((!(directive & 5) && ${#COMPREPLY[@]} == 0)); then
        compopt -o filenames
        while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -f -- "${current##*[=:]}")
    fi
}

complete -F _proa proa
"""

_ZSH = r"""#compdef proa
# zsh completion for proa: as _proa in a directory of $fpath, or source <(proa completion zsh)

_proa() {
    local line name directive
    local -a lines rows extra
    lines=("${(@f)$(${(Q)words[1]/#\~/$HOME} __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    directive=${lines[-1]#:}
    for line in "${(@)lines[1,-2]}"; do
        name=${line%%$'\t'*}
        name=${name//:/\\:}
        [[ $line == *$'\t'* ]] && name+=:${line#*$'\t'}
        rows+=("$name")
    done
    ((directive & 1)) && return 1
    [[ ${words[CURRENT]} == --*=* ]] && compset -P '--*='
    ((directive & 2)) && extra=(-S '')
    if ((directive & 16)); then
        _files -/
    elif ((${#rows})); then
        _describe -V candidates rows "${(@)extra}"
    elif ((!(directive & 4))); then
        _files
    fi
}

if [[ ${funcstack[1]} == _proa ]]; then
    _proa "$@"
else
    compdef _proa proa
fi
"""

_FISH = r"""# fish completion for proa; proa completion fish > ~/.config/fish/completions/proa.fish

function __proa_candidates
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($before[1] __complete $before[2..-1] "$current" 2>/dev/null)
    set -l directive (string replace : '' -- $lines[-1])
    set -e lines[-1]
    set -l prefix (string match -r -- '^--[^=]*=' $current)
    if test "$directive" = 1
        return
    else if test "$directive" = 16
        __fish_complete_directories (string replace -- "$prefix" '' $current)
    else if test (count $lines) -gt 0
        printf '%s\n' $prefix$lines
    else if test "$directive" = 0 -o "$directive" = 2
        __fish_complete_path (string replace -- "$prefix" '' $current)
    end
end

complete -c proa -f -a '(__proa_candidates)'
"""

SCRIPTS = {"bash": _BASH, "fish": _FISH, "zsh": _ZSH}

_LONG = """Generate the autocompletion script for the specified shell: bash, fish or zsh

  bash:  source <(proa completion bash)                                # this shell
         proa completion bash > /etc/bash_completion.d/proa            # every new one, with bash-completion
  zsh:   source <(proa completion zsh)                                 # this shell, after compinit
         proa completion zsh > /usr/local/share/zsh/site-functions/_proa
  fish:  proa completion fish | source
         proa completion fish > ~/.config/fish/completions/proa.fish"""


def completion(parsed: Parsed) -> int:
    """`proa completion`."""
    shell = parsed.args[0]
    script = SCRIPTS.get(shell)
    if script is None:
        raise Failure(f"completion is there for bash, fish and zsh, not for {shell}")
    os.write(1, script.encode())
    return 0


COMMANDS = {
    "completion": Command(
        "completion",
        "SHELL",
        "Generate the autocompletion script for the specified shell",
        completion,
        minimum=1,
        maximum=1,
        long=_LONG,
    ),
}
