# Sourced by scripts/train and scripts/test, which set `script` (themselves) and `root` (the checkout). POSIX sh.
# Installs the project into .venv once, and again when pyproject.toml changes. A stamp is written last, so an interrupted
# installation starts over; a lock lets one start install while others wait.

say() {
    printf '%s\n' "scripts/${script##*/}: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

# Prints what the stamp of a finished installation holds: this checkout and its pyproject.toml.
stamp() {
    printf '%s\n' "$root" && cat "$root/pyproject.toml"
}

installed() {
    [ -x "$venv/bin/python" ] && [ -x "$venv/bin/train" ] && stamp | cmp -s - "$venv/.installed-$1"
}

# Sets `python` to the first Python that is new enough and can make environments.
find_python() {
    for python in ${TRAIN_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        "$python" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    fail "Python 3.11 or newer with its modules venv and ensurepip is needed; tried: ${TRAIN_PYTHON:-python3.13, ..., python3, python}.
  Install one (on Debian and Ubuntu: apt-get install python3-venv), or name one: TRAIN_PYTHON=/path/to/python3"
}

# The lock belongs to descriptor 9, which pip inherits: if this shell is killed, others wait until pip has ended too.
take_lock() {
    "$python" -I -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    say "another start is installing into .venv: waiting for it"
    run "$python" -I -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

# Runs a command in the checkout and in a session of its own, so that a signal to this shell ends it with all its children.
# Settings that would send packages elsewhere do not reach it.
run() {
    "$python" -I -c 'import os, sys
for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_NO_DEPS"):
    os.environ.pop(name, None)
os.environ["PIP_USER"] = "0"
os.chdir(sys.argv[1])
os.setsid()
os.execvp(sys.argv[2], sys.argv[2:])' "$root" "$@" </dev/null >&2 &
    child=$!
    wait "$child"
}

stop() {
    trap - INT TERM HUP
    kill -TERM "-$child" 2>/dev/null
    wait
    say "interrupted; the next start installs again"
    kill -"$1" $$
}

# ensure_installed train|test: returns when .venv is ready; otherwise says why not and exits with 1.
ensure_installed() {
    venv=$root/.venv child=
    installed "$1" && return
    find_python
    [ ! -e "$venv" ] || [ -e "$venv/.made-by-scripts" ] || [ -z "$(ls -A "$venv")" ] || fail "$venv was not made by scripts/train and is kept.
  Use it (.venv/bin/python -m pip install -e .), or move it away (mv .venv .venv-of-mine) and repeat the command."
    for signal in INT TERM HUP; do trap "stop $signal" "$signal"; done
    mkdir -p "$venv" && : >>"$venv/.made-by-scripts" || fail "$venv cannot be written"
    exec 9>>"$venv/.made-by-scripts"
    take_lock
    installed "$1" || install_into_venv "$1"
    exec 9>&-
    trap - INT TERM HUP
}

install_into_venv() {
    root_of_stamp=$(head -n 1 "$venv/.installed-train" 2>/dev/null)
    rm -f "$venv"/.installed-*
    if [ "$root_of_stamp" != "$root" ] || ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
        say "installing into $venv: about 5 GB, a minute or more"
        find "$venv" -mindepth 1 -maxdepth 1 ! -name .made-by-scripts -exec rm -rf {} +
        run "$python" -I -m venv "$venv" || fail "the environment $venv could not be made"
    else
        say "updating $venv"
    fi
    extra=
    [ "$1" = test ] && extra='[test]'
    stamp >"$venv/.stamp"
    run "$venv/bin/python" -I -m pip install --disable-pip-version-check --progress-bar off --editable ".$extra" || fail "the installation failed; the reason is in the lines above. The next start installs again."
    [ "$1" = test ] && cp "$venv/.stamp" "$venv/.installed-test"
    mv "$venv/.stamp" "$venv/.installed-train"
}
