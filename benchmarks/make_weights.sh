#!/usr/bin/env bash
# The weights that ship, made from nothing: over two hours on 2 cores. The cards say which runs made the current ones.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in fashion-classifier mnist-classifier fashion-vae; do
    alphabar train "$name" --resume
done
alphabar train fashion-pixel --resume
alphabar train fashion-latent codec=runs/fashion-vae --resume
for name in fashion-classifier mnist-classifier fashion-vae fashion-pixel fashion-latent; do
    python benchmarks/ship.py "runs/$name" "$name"
done
