#!/usr/bin/env bash
# Stream of Search (arXiv 2404.03683): a model that reads searches, unsuccessful ones too, against one
# that reads optimal paths. In the tiny world on a CPU; for a real model see the settings of
# recipes/studies/sos.study and tiny.study, which are variables.
#
#   bash recipes/sos.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" sos "$@"
