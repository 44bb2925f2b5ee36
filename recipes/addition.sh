#!/usr/bin/env bash
# Digit addition of STaR (arXiv 2203.14465, §4.1): accuracy by digits and rounds, with and without
# hints. In the tiny world on a CPU; for a real model see the settings of
# recipes/studies/addition.study and tiny.study, which are variables.
#
#   bash recipes/addition.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" addition "$@"
