#!/usr/bin/env bash
# 1-shot RLVR (arXiv 2504.20571): reinforcement learning on a single problem, chosen by the
# variance of its accuracy. In the tiny world on a CPU; for a real model see the settings of
# recipes/studies/oneshot.study and tiny.study, which are variables.
#
#   bash recipes/oneshot.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" oneshot "$@"
