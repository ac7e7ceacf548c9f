#!/usr/bin/env bash
# Writes the two locks anew after a dependency changed: constraints.txt from a fresh, unlocked CPU install, then constraints-gpu.txt by
# resolution alone, keeping every version of the first that the GPU build of vLLM admits. Run it on a machine without a GPU.
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

uv=$(command -v uv || echo "$fresh/bin/uv")
gpu=build/constraints-gpu.txt
cp requirements/constraints.txt "$gpu"  # an existing output is what uv prefers
"$uv" pip compile --quiet --python-version 3.11 --extra gpu --extra dev --no-annotate --no-header --no-emit-index-url -o "$gpu" pyproject.toml
{
  echo "# As constraints.txt, for the GPU build of vLLM. Written by requirements/lock.sh."
  cat "$gpu"
} > requirements/constraints-gpu.txt
rm -rf "$fresh" "$gpu"
