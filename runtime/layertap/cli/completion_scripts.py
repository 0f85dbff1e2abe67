"""The scripts that `layertap completion` prints. Words in them come from the code, never from a
file: the names of layers are asked for when they are needed, and quoted by the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from layertap._record import Record


class Option(Record):
    """An option of a command, as a script completes it."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    """The values that it may have, if these are words."""
    layers: bool = False
    """Whether its values are names of layers."""
    many: bool = False
    """Whether it takes several values."""
    flag: bool = False
    """Whether it takes none."""


Commands: TypeAlias = Mapping[str, tuple[str, list[Option]]]
"""By name of a command, its description and its options."""

_BASH = r"""# Completion for bash: `layertap completion bash`.

_layertap() {
    local cur="" quote="" command="" option="" file="" values="" layers="" word name i n=0 at=-1
    local given
    given=()
    COMPREPLY=()
    # bash breaks words at `:` and `=`; only an option is followed by a `=` of its own.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == "=" ]]; then
            if ((i == COMP_CWORD)); then given[n]=""; n=$((n + 1)); fi
        elif [[ $n -gt 0 && ( $word == ":" || ${COMP_WORDS[i-1]} == ":" ) ]]; then
            given[n - 1]+=$word
        else
            given[n]=$word
            n=$((n + 1))
        fi
    done
    if ((n > 0)); then cur=${given[n - 1]}; fi
    case $cur in
        \'*|\"*) quote=${cur:0:1}; cur=${cur:1} ;;
        *) cur=${cur//\\/} ;;
    esac
    for ((i = 0; i < n - 1; i++)); do
        word=${given[i]}
        word=${word//[\\\'\"]/}
        case $word in
            -*) option=$word; at=$i; continue ;;
            "~/"*) word=$HOME/${word:2} ;;
        esac
        if [[ -z $command ]]; then command=$word; option=""; at=-1
        elif [[ -z $file && $word == *.onnx && -f $word ]]; then file=$word; fi
    done

    if [[ -z $command || $command == help ]]; then
        values="@COMMANDS@"
        if [[ $cur == -* ]]; then values="--help --version --verbose"; fi
    elif [[ $cur == -* ]]; then
        case $command in
@OPTIONS@
        esac
    else
        case "$command $option" in
@MANY@
        esac
        if ((at == n - 2)); then
            case "$command $option" in
@VALUES@
            esac
        fi
        if [[ -z $option && $command == completion ]]; then values="@SHELLS@"; fi
    fi

    for name in $values; do
        if [[ $name == "$cur"* ]]; then COMPREPLY+=("$name"); fi
    done
    if [[ -n $layers && -n $file ]]; then
        while IFS= read -r name; do
            if [[ $name != "$cur"* ]]; then continue; fi
            if [[ -z $quote ]]; then printf -v name %q "$name"
            elif [[ $name == *[\\\'\"\$\`!]* ]]; then continue; fi
            COMPREPLY+=("$name")
        done < <(layertap layers "$file" --names 2>/dev/null)
    fi
    if [[ $cur == *:* && ${COMP_WORDBREAKS-} == *:* ]]; then
        word=${cur%"${cur##*:}"}
        for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do COMPREPLY[i]=${COMPREPLY[i]#"$word"}; done
    fi
}

complete -o default -F _layertap layertap"""

_ZSH = """# Completion for zsh: `layertap completion zsh`. It is bash's, which zsh can run.

autoload -U +X compinit && { (( $+functions[compdef] )) || compinit }
autoload -U +X bashcompinit && bashcompinit
"""

_FISH = r"""# Completion for fish: `layertap completion fish`.

function __layertap_layers
    for word in (commandline -opc)
        set -l file (string replace -r '^~/' "$HOME/" -- $word)
        if string match -q '*.onnx' -- $file; and test -f $file
            layertap layers $file --names 2>/dev/null
            return
        end
    end
end
"""


def _bash(commands: Commands) -> str:
    def cases(pairs: Iterable[tuple[str, str]], indent: int) -> str:
        return "\n".join(f"{' ' * indent}{left}) {right} ;;" for left, right in pairs)

    options = (
        (name, f'values="{" ".join(word for option in found for word in option.names)}"')
        for name, (_, found) in commands.items()
    )
    many: list[tuple[str, str]] = []
    one: list[tuple[str, str]] = []
    for name, (_, found) in commands.items():
        for option in found:
            if option.layers or option.values:
                what = "layers=1" if option.layers else f'values="{" ".join(option.values)}"'
                words = "|".join(f'"{name} {word}"' for word in option.names)
                (many if option.many else one).append((words, what))
    script = _BASH.replace("@COMMANDS@", " ".join([*commands, "help"]))
    script = script.replace("@OPTIONS@", cases(options, 12))
    script = script.replace("@MANY@", cases(many, 12))
    script = script.replace("@VALUES@", cases(one, 16))
    return script.replace("@SHELLS@", " ".join(SHELLS))


def _zsh(commands: Commands) -> str:
    return _ZSH + _bash(commands).partition("\n")[2]


def _fish(commands: Commands) -> str:
    lines = [_FISH]
    start = "complete -c layertap"
    for name, (text, _) in commands.items():
        lines.append(f"{start} -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
    lines.append(f"{start} -n '__fish_seen_subcommand_from help' -f -a '{' '.join(commands)}'")
    lines.append(f"{start} -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(SHELLS)}'")
    lines += [
        f"{start} -n '__fish_seen_subcommand_from {name}' "
        f"{' '.join(map(_flag, option.names))}{_fish_values(option)} -d {_quoted(option.help)}"
        for name, (_, options) in commands.items()
        for option in options
    ]
    return "\n".join(lines)


def _flag(word: str) -> str:
    return f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"


def _fish_values(option: Option) -> str:
    if option.flag:
        return ""
    if option.layers:
        return " -x -a '(__layertap_layers)'"
    return f" -x -a '{' '.join(option.values)}'" if option.values else " -r"


def _quoted(text: str) -> str:
    """A text of our own as a word of fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, Callable[[Commands], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
"""By name of a shell, what makes its script of the commands."""
