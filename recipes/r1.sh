#!/usr/bin/env bash
# DeepSeek-R1's pipeline (arXiv 2501.12948): cold start, RL, the base anew on right answers and other
# tasks, RL on all groups; R1-Zero beside it; distillation into a smaller base. In the tiny world on a
# CPU, from a base of two scripts that is made first; settings are in recipes/studies/r1.study.
#
#   bash recipes/r1.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" r1 "$@"
