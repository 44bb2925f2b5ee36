#!/usr/bin/env bash
# Runs a study: each claim of a paper, tested by one command with an interval and a verdict. Studies
# are recipes/studies/NAME.study; atlas/study.py says how to write one.
#
#   bash recipes/study.sh s1_ablation              one seed, minutes on 2 cores
#   bash recipes/study.sh s1_ablation --seeds 3    LANES=1 for one core
#   SPLIT=dev bash recipes/study.sh s1_ablation    on the problems that settings are chosen with
#   MODEL=Qwen/Qwen2.5-0.5B POOL=... bash recipes/study.sh s1_ablation     see studies/tiny.study
#
# The same command continues after a kill; what two studies share is computed once (out/atlas/arms).
set -euo pipefail
source "$(dirname "$0")/env.sh"
default LANES=2 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 MPLBACKEND=Agg OUT=out/atlas
if [ $# -eq 0 ]; then
  echo "study.sh: which study? one of" recipes/studies/*.study >&2
  exit 2
fi
python -m atlas.run "$@" --lanes "$LANES" --out "$OUT"
