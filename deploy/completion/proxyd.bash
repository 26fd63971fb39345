# bash completion for proxyd: written from the parser by `python -m tests.completion`; no change made here will last
_proxyd() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words=
    if [[ $word == "=" ]]; then
        word=
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)) || [[ $command == -* ]]; then
        command=
    fi
    COMPREPLY=()
    case "$command $before" in
        " --policy" | \
            "explain --log" | \
            "explain --policy" | \
            "learn --policy" | \
            "report --html" | \
            "audit --policy" | \
            "exec --policy" | \
            "exec --audit" | \
            "reload --policy" | \
            "health --policy")
            return ;; # a file: readline completes it
        "explain --address" | \
            "explain --cname" | \
            "explain --client" | \
            "log --client" | \
            "log --host" | \
            "log --since" | \
            "learn --wildcard" | \
            "validate --proxy-url" | \
            "validate --allowed-url" | \
            "validate --denied-url" | \
            "audit --proxy-url")
            compopt +o default
            return ;;
        "diff --fail-on") words="opens closes any never" ;;
        *)
            case "$command" in
                "") words="-h --help --version --policy check explain diff log learn report validate audit exec reload health password" ;;
                "check") [[ $word == -* ]] || return; words="-h --help --json" ;;
                "explain") words="-h --help --log --policy --address --cname --client --json" ;;
                "diff") [[ $word == -* ]] || return; words="-h --help --json --markdown --fail-on" ;;
                "log") [[ $word == -* ]] || return; words="-h --help --follow --denied --client --host --since --json" ;;
                "learn") [[ $word == -* ]] || return; words="-h --help --policy --wildcard --json" ;;
                "report") [[ $word == -* ]] || return; words="-h --help --html --json" ;;
                "validate") words="-h --help --proxy-url --allowed-url --denied-url --json" ;;
                "audit") words="-h --help --policy --deep --proxy-url --json --fix" ;;
                "exec") words="-h --help --policy --audit" ;;
                "reload") words="-h --help --policy --json" ;;
                "health") words="-h --help --policy --alive --json" ;;
                "password") words="-h --help --generate --json" ;;
            esac ;;
    esac
    compopt +o default
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _proxyd proxyd
