#!/bin/sh
# Makes .venv and installs what is missing: `sh tools/setup.sh` for the lab, `sh tools/setup.sh test` for the tests too.
# PYTHON=/path/to/python chooses the interpreter. uv is used where it is found; UV= (empty) goes without it.
# Does nothing, and needs no network, while pyproject.toml, constraints.txt and the folder are as they were last time.
set -eu
cd "$(dirname "$0")/.."

extras=${1:-lab}
stamp=.venv/spgca-lab.stamp
python=.venv/bin/python
fingerprint=$({ cat pyproject.toml constraints.txt; pwd -P; } | cksum)
UV=${UV-$(command -v uv || true)}

say() { printf '%s\n' "$*" >&2; }

usable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" && { command -v "$PYTHON"; return; }
        say "PYTHON=$PYTHON is not a Python 3.11 to 3.14 that runs. Give another, or leave PYTHON out."
        return 1
    fi
    for candidate in python3.13 python3.14 python3.12 python3.11 python3 python; do
        usable "$candidate" && { command -v "$candidate"; return; }
    done
    say "No Python 3.11 to 3.14 was found (tried python3.13, python3.14, python3.12, python3.11, python3, python)."
    say "Debian, Ubuntu: apt install python3 python3-venv.  macOS: brew install python@3.13.  Or: make lab PYTHON=/path/to/python3.12"
    return 1
}

make_venv() {
    if [ -n "$UV" ]; then
        # Without a usable interpreter on the PATH, uv brings one of its own.
        chosen=$(find_python 2>/dev/null) || { [ -z "${PYTHON:-}" ] || find_python; chosen='>=3.11,<3.15'; }
        "$UV" venv --seed --python "$chosen" .venv
        return
    fi
    chosen=$(find_python)
    if ! "$chosen" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$chosen" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "$chosen cannot make a virtual environment: its venv module is not installed."
        say "Debian, Ubuntu: apt install python$version-venv (or python3-venv), then try again."
        return 1
    fi
    "$chosen" -m venv .venv
}

if [ -e .venv ] && ! usable "$python"; then
    say "The Python of .venv no longer runs, or is not 3.11 to 3.14: making .venv afresh."
    rm -rf .venv
fi

if [ -f "$stamp" ]; then
    case "$(cat "$stamp")" in
        "$fingerprint test" | "$fingerprint $extras") exit 0 ;;
    esac
fi

[ -e .venv ] || make_venv
rm -f "$stamp"
target=.
[ "$extras" = lab ] || target=".[$extras]"
say "Installing into .venv (once; on Linux the first time takes about 5 GB with PyTorch) ..."
if [ -n "$UV" ]; then
    "$UV" pip install --python "$python" -c constraints.txt -e "$target"
else
    "$python" -m pip install --disable-pip-version-check -c constraints.txt -e "$target"
fi
printf '%s %s\n' "$fingerprint" "$extras" >"$stamp"
