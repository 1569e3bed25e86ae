# Sourced by build/demo, build/test and build/package: makes a virtual environment out of a lock file, once per change of that file.
# Python 3.11 or later is all that has to be there.

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or later with its venv module is needed (Debian: apt install python3-venv); set PYTHON to name one." >&2
    exit 69
}

# install LOCK [DIRECTORY]: the locked packages and this checkout into .venv. dev.txt holds all of demo.txt: after it, nothing is left to do.
install() {
    venv="${2:-.venv}"
    stamp="$(cat build/requirements/*.txt pyproject.toml | cksum)"
    case "$(cat "$venv/installed" 2>/dev/null)" in
        "$stamp $1" | "$stamp build/requirements/dev.txt") return ;;
    esac
    # One that is there and works stays as it is, whichever Python is first on PATH today.
    if ! "$venv/bin/python" -c "" 2>/dev/null; then
        python="$(find_python)"
        "$python" -m venv --clear "$venv"
    fi
    echo "Installing into $venv with $("$venv/bin/python" --version) (once; about a minute) ..."
    "$venv/bin/python" -m pip install --disable-pip-version-check --require-hashes -r "$1"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet -e .
    echo "$stamp $1" > "$venv/installed"
}
