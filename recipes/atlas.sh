#!/usr/bin/env bash
# Runs studies and writes the atlas: out/atlas/atlas.html, every claim with its interval and verdict,
# and the table of RESULTS.md (with --table, between its two marks).
#
#   bash recipes/atlas.sh                                   all of recipes/studies, one seed: hours
#   bash recipes/atlas.sh --only s1_ablation,limo_size --seeds 3
#   bash recipes/atlas.sh --table RESULTS.md                also the table
#   LANES=1 bash recipes/atlas.sh                           on one core
#
# The same command continues after a kill. Studies of another --seeds stay on the page as they are.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default LANES=2 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 MPLBACKEND=Agg OUT=out/atlas
only=() seeds=1 table=
while [ $# -gt 0 ]; do
  case "$1=${2:-}" in
    --only=?*) IFS=, read -ra only <<< "$2" ;;
    --seeds=[1-9]*) seeds=$2 ;;
    --table=?*) table=$2 ;;
    *) echo "atlas.sh: unknown argument: $1 (only --only A,B, --seeds N, --table FILE)" >&2; exit 2 ;;
  esac
  shift 2
done
status=0
python -m atlas.run "${only[@]}" --seeds "$seeds" --lanes "$LANES" --out "$OUT" || status=$?
[ -z "$table" ] || python -m atlas.page --out "$OUT" --table "$table"
exit $status
