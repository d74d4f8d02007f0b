#!/bin/sh
# env.sh DIST...: make $VENV ready: the dev group of pyproject.toml and every DIST, editable, at the versions of constraints.txt.
# Called by make; needs nothing but Python 3.11+ (asked for as $PYTHON).
set -eu
venv=${VENV:-.venv}

say() { printf 'env: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
good() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
  if good "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || die "Python 3.11 or newer is needed: install it, or name it with make PYTHON=/path/to/python3"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  # Debian splits ensurepip off into a package named after the interpreter's version.
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    { apt-get update -q && apt-get install -y -q --no-install-recommends "$package"; } >"$log" 2>&1 ||
      { tail -n 5 "$log" >&2; die "$package could not be installed: install it, then run make again"; }
    rm -f "$log"
  else
    die "$python has no venv module: run 'apt-get install $package' (or your system's equal) as root, then make again"
  fi
fi

if ! good "$venv/bin/python" || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  say "creating $venv"
  "$python" -m venv --clear "$venv"
fi

pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
say "installing the development tools (this and the next step: about a minute)"
pip install -c constraints.txt --upgrade pip # dependency groups need a newer pip than some Pythons bring
pip install -c constraints.txt --group dev

# All in one command: the core's extras and the plugins require each other by name, and none need be on an index.
say "installing the distributions of this checkout"
for dist; do
  shift
  set -- "$@" -e "./$dist"
done
pip install -c constraints.txt --no-build-isolation "$@"
