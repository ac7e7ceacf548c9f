#!/usr/bin/env bash
# Prints the build arguments that pin today's base images: deploy/docker/digests.sh, then docker build $(...) -f ...
set -euo pipefail
digest() { docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"; }
echo "--build-arg PYTHON_DIGEST=$(digest docker.io/library/python:3.11-slim-bookworm)"
echo "--build-arg CUDA_DIGEST=$(digest docker.io/nvidia/cuda:13.0.1-devel-ubuntu22.04)"
echo "--build-arg UV_DIGEST=$(digest ghcr.io/astral-sh/uv:0.9)"
