#!/usr/bin/env bash
# The unit tests as two processes side by side: those that need vLLM or Ray, which keep one core busy, and all others.
# What the first says is shown when the second is through. Fails if either does. Arguments go to both.
set -uo pipefail
cd "$(dirname "$0")/.."

run() {
  .venv/bin/python -m pytest tests --ignore=tests/e2e "$@"
  local rc=$?
  [ "$rc" -eq 5 ] && rc=0 # arguments may leave one of them without a test
  return "$rc"
}

said=$(mktemp)
run --lane heavy -o cache_dir=.pytest_cache/heavy "$@" >"$said" 2>&1 &
heavy=$!
trap 'kill "$heavy" 2>/dev/null; cat "$said"; rm -f "$said"' EXIT
run --lane light "$@"
light=$?
wait "$heavy" || exit
exit "$light"
