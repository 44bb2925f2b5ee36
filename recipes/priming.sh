#!/usr/bin/env bash
# Cognitive behaviors (arXiv 2503.01307): RL from a base, and from the same primed with blurts, with
# traces of four habits that end right, and with such that end wrong; accuracy and habits before and
# after. In the tiny world on a CPU; settings are in recipes/studies/priming.study and tiny.study.
#
#   bash recipes/priming.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" priming "$@"
