# Sourced by quickstart.sh and test.sh: makes .venv, installs requirements.txt into it and builds the body model's cache, each once.
# Sets $python, the interpreter of .venv; the current folder becomes the project's root.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$PWD/.venv/bin/python"

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$candidate"; return; fi
    done
    echo "error: no Python 3.11 or newer on the path" >&2
    return 1
}

stamp=$(cat requirements.txt pyproject.toml | cksum)
if [ ! -x "$python" ] || [ "$(cat .venv/installed 2>/dev/null)" != "$stamp" ]; then
    echo "Installing into .venv (a few minutes, once) ..."
    if [ ! -x "$python" ]; then
        base=$(find_python)
        "$base" -m venv .venv || { echo "error: $base cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
    fi
    "$python" -m pip install --quiet --upgrade pip
    "$python" -m pip install --quiet -r requirements.txt
    "$python" scripts/make_people.py prepare
    echo "$stamp" > .venv/installed
fi
