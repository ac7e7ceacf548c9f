#!/usr/bin/env bash
# Makes .venv with everything that running and testing need. Quick when nothing changed: a stamp holds the digest of its inputs.
# usage: requirements/install.sh [--unlocked]     (--unlocked ignores the lock; requirements/lock.sh uses it)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${SHOAL_VENV:-.venv}
stamp="$venv/.shoal-installed"
extra=cpu
lock=requirements/constraints.txt
if nvidia-smi >/dev/null 2>&1; then extra=gpu lock=requirements/constraints-gpu.txt; fi
locked=(-c "$lock")
[ "${1:-}" = "--unlocked" ] && locked=()

# The folder is part of the digest: an editable install points at it.
digest=$( { echo "$PWD $extra ${locked[*]:-unlocked}"; cat pyproject.toml requirements/*.txt requirements/install.sh; } | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$digest" ] && [ -x "$venv/bin/shoal" ]; then exit 0; fi

say() { printf 'install: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

python=${PYTHON:-}
for candidate in python3.11 python3 python; do
  [ -n "$python" ] && break
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$candidate; fi
done

uv=
find_uv() {
  for candidate in uv "$venv/bin/uv" "$HOME/.local/bin/uv"; do
    if "$candidate" --version >/dev/null 2>&1; then uv=$candidate; return; fi
  done
}
find_uv
if [ ! -x "$venv/bin/python" ]; then
  if [ -n "$python" ] && "$python" -m venv "$venv" >/dev/null 2>&1; then :
  elif [ -n "$uv" ]; then rm -rf "$venv"; "$uv" venv --quiet --seed --python 3.11 "$venv"
  else fail "needs Python 3.11 with its venv module (Debian: apt-get install python3.11-venv) or uv"
  fi
fi
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$venv is not of Python 3.11: remove it and try again"
if [ -z "$uv" ]; then
  say "fetching uv"
  "$venv/bin/python" -m pip install --quiet uv
  find_uv
fi
[ -n "$uv" ] || fail "uv could not be installed"

# uv does not read pip's configuration: hand on where packages come from.
pip_setting() {  # NAME: the environment wins over the files, as in pip
  local variable="PIP_${1^^}"; variable=${variable//-/_}
  if [ -n "${!variable:-}" ]; then echo "${!variable}"; return; fi
  "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true
}
sources=()
find_links=$(pip_setting find-links)
for link in $find_links; do sources+=(--find-links "$link"); done
index=$(pip_setting index-url)
[ -n "$index" ] && sources+=(--default-index "$index")
cert=$(pip_setting cert)
[ -n "$cert" ] && export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"

path=()
if [ "$extra" = cpu ]; then
  path=(--override requirements/cpu-overrides.txt)
  # Without a place of one's own, the CPU build of torch is on PyTorch's index, which uv knows by this name.
  [ -n "$find_links" ] || path+=(--torch-backend cpu)
fi
say "installing into $venv ($extra build of vLLM); about 40 s the first time, more on a slow line"
VIRTUAL_ENV="$PWD/$venv" "$uv" pip install --quiet --python "$venv/bin/python" "${sources[@]}" "${path[@]}" "${locked[@]}" -e ".[$extra,dev]"
echo "$digest" > "$stamp"
say "done"
