#!/usr/bin/env bash
# Writes requirements/constraints.txt anew from what a fresh, unlocked CPU install resolves to. Run it after changing a dependency.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=build/lock-venv
rm -rf "$fresh"
mkdir -p build
SHOAL_VENV=$fresh requirements/install.sh --unlocked
{
  echo "# Every version of the environment that the tests run in. Written by requirements/lock.sh; no addresses, no editable line."
  # The local tag (+cpu) goes: the plain version matches both builds, and the CPU build of vLLM asks for the tag itself.
  "$fresh/bin/python" -m pip list --format=freeze --exclude-editable | grep -v -i -E '^(pip|uv|shoal)==' | sed 's/+cpu$//' | sort -f
} > requirements/constraints.new
mv requirements/constraints.new requirements/constraints.txt
rm -rf "$fresh"
