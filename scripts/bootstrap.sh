# Sourced by scripts/train and scripts/test, which set `script` (themselves) and `root` (the checkout). POSIX sh.
# The quick way is here: two files are compared, and the command starts. Everything else is in bootstrap.py.

say() {
    printf '%s\n' "scripts/${script##*/}: $*" >&2
}

# installed KIND: was the installation finished, here, for this pyproject.toml? bootstrap.py writes the mark, last of all.
installed() {
    mark=$root/.venv/.installed-$1
    [ -f "$mark" ] && [ -x "$root/.venv/bin/python" ] && [ -x "$root/.venv/bin/train" ] &&
        [ "$(cat "$mark")" = "$root
$(cat "$root/pyproject.toml")" ]
}

# Runs on any Python from 2.7 on; a shim of pyenv may be there and fail, so a name on PATH says nothing.
probe='
import sys
del sys.path[0]
version = "%d.%d.%d" % sys.version_info[:3]
try:
    import venv
    from ensurepip import version as _
    verdict = "usable"
except ImportError:
    verdict = "no-venv"
print("%s %s" % (verdict if sys.version_info >= (3, 11) else "old", version))
'

# find_python NAMES: sets `python` to the first that will do; otherwise `seen` says what was found, one line each.
find_python() {
    seen=
    for name in "$@"; do
        path=$(command -v "$name") || continue
        answer=$("$path" -E -s -c "$probe" 2>/dev/null) || answer=
        case $answer in
        usable\ *)
            python=$path
            return 0
            ;;
        no-venv\ *) why="Python ${answer#* }, without its modules venv and ensurepip" ;;
        old\ *) why="Python ${answer#* }, too old" ;;
        *) why="does not run" ;;
        esac
        seen="$seen
  $path: $why"
    done
    return 1
}

no_python() {
    say "Python 3.11 or newer is needed, with its modules venv and ensurepip. Found:${seen:-
  none of: $*}"
    case $seen in
    *"without its modules"*) say "On Debian and Ubuntu: apt-get install python3-venv" ;;
    *) say "Install one (python.org, your system's packages, pyenv, uv, conda)." ;;
    esac
    say "Or name one that is not on PATH: TRAIN_PYTHON=/path/to/python3 scripts/${script##*/} ..."
    exit 1
}

# ensure_installed KIND ARGUMENTS: returns at once when installed; otherwise becomes bootstrap.py, which installs and
# starts this script again. The same process goes on all along, so that signals always reach the one at work.
ensure_installed() {
    kind=$1
    shift
    again=${TRAIN_INSTALLED-}
    unset TRAIN_INSTALLED
    installed "$kind" && return
    if [ "$again" = "$$" ]; then
        say "pyproject.toml or .venv changed during the installation: repeat the command"
        exit 1
    fi
    if [ -n "${TRAIN_PYTHON-}" ]; then
        find_python "$TRAIN_PYTHON" || no_python "$TRAIN_PYTHON"
    else
        find_python python3.13 python3.12 python3.11 python3 python || no_python python3.13, ..., python3, python
    fi
    exec "$python" -I "$root/scripts/bootstrap.py" "$root" "$kind" "$script" "$@"
}
