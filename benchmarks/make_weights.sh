#!/usr/bin/env bash
# The weights that ship, made from nothing: over five hours on 2 cores. The cards say which runs made the current ones.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in fashion-classifier mnist-classifier fashion-vae; do
    alphabar train "$name" --resume
done
alphabar train fashion-pixel --resume
alphabar train fashion-latent codec=runs/fashion-vae --resume
for name in emoji-judge emoji-vae emoji-clip emoji-latent; do
    alphabar train "$name" --resume
done
for name in fashion-classifier mnist-classifier fashion-vae fashion-pixel fashion-latent; do
    python benchmarks/ship.py "runs/$name" "$name"
done
python benchmarks/ship.py runs/emoji-clip emoji-clip --half
alphabar evaluate runs/emoji-latent --judge runs/emoji-judge --guidance 1 2 3 6 2:0.7 --captions 100
python benchmarks/ship.py runs/emoji-latent emoji-latent --half --evaluation runs/emoji-latent/evaluation/evaluation.json
