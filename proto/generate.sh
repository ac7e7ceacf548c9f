#!/usr/bin/env bash
# Writes the generated code beside the .proto files. -I maps the virtual path, so that imports in it read `shoal.proto.v1`.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc -Ishoal/proto=proto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/v1/*.proto
cp "$out"/shoal/proto/v1/*_pb2* "${1:-proto/v1}/"
