#!/usr/bin/env bash
# A verifier (arXiv 2110.14168) against votes and the model's own likelihood: best of N and weighted
# votes. In the tiny world on a CPU; for a real model see the settings of
# recipes/studies/verifier.study and tiny.study, which are variables.
#
#   bash recipes/verifier.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" verifier "$@"
