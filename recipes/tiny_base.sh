#!/usr/bin/env bash
# Makes data/tiny_base, the base model of the tiny world (170 thousand parameters, 0.7 MB), from
# nothing: it reads 96,000 documents twice, 5.6 million tokens. About 5 minutes on one core. The
# model is in the repository, so recipes/tiny.sh need not begin with this.
#
#   bash recipes/tiny_base.sh [--seed S]       another seed goes to out/tiny_base_seedS
set -euo pipefail
source "$(dirname "$0")/env.sh"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
seed=0
out=data/tiny_base
if [ "${1:-}" = --seed ]; then
  seed=$2
  out=out/tiny_base_seed$seed
fi
order=$((42 + seed))                         # seed of the reading order
world=out/tiny_base_data$seed
run=out/tiny_base_run$seed

python -m data.tiny --out "$world" --pretrain 96000 --seed "$seed" --init-seed "$seed"
python sft.py --model "$world/untrained" --data "$world/pretrain.jsonl" --out "$run" \
  --format think --epochs 2 --batch-rows 32 --seed "$order" --lr 5e-3 --muon-lr 0.02 --beta2 0.98 \
  --weight-decay 0 --schedule linear --warmup 0.005 --hold 0.4 --lr-floor 0.02 \
  --print-every 100 --save-every 1000 --overwrite
mkdir -p "$out"
for file in "$run"/*; do
  case "$file" in *log.jsonl) ;; *) cp "$file" "$out/" ;; esac
done
echo "wrote $out"
