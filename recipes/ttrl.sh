#!/usr/bin/env bash
# TTRL (arXiv 2504.16084): RL on the test problems themselves, without their answers. The majority
# of VOTES samples is the label; the first GROUP of them are trained on.
#
#   bash recipes/ttrl.sh                      in the tiny world on a CPU, about 8 minutes on 2 cores
#   MODEL=Qwen/Qwen2.5-Math-1.5B TEST=aime.jsonl FORMAT=r1 VOTES=64 GROUP=32 PROMPTS=8 \
#     MAX_TOKENS=3072 LR=5e-7 DEVICE=cuda bash recipes/ttrl.sh
#
# Where the majority is mostly wrong there is nothing to gain. The tiny world therefore starts from
# a model that GRPO with gold answers has brought half of the way, on other problems. label_accuracy
# and majority_share are in the log.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default OMP_NUM_THREADS=1 FORMAT=think DEVICE=cpu SEED=0 STEPS=40 MAX_TOKENS=128
default PROMPTS=8 VOTES=32 GROUP=16 LR=5e-4 OUT="out/ttrl/seed$SEED"
common=(--format "$FORMAT" --seed "$SEED" --max-tokens "$MAX_TOKENS" --device "$DEVICE")
if [ -z "${MODEL:-}" ]; then
  python -m data.tiny --out "$OUT/data" --seed "$SEED"
  TEST=$OUT/test.jsonl MODEL=$OUT/start
  grep '"group": "math"' "$OUT/data/held_out.jsonl" > "$TEST"
  python grpo.py --model data/tiny_base --data "$OUT/data/train.jsonl" --out "$MODEL" --steps 25 \
    --lr 5e-4 "${common[@]}"
fi

answer() {                                   # answer MODEL RUN
  python generate.py --model "$1" --data "$TEST" --out "$OUT/runs/$2.jsonl" --temperature 0.7 \
    "${common[@]}" --n 4
}

answer "$MODEL" before
python grpo.py --model "$MODEL" --data "$TEST" --out "$OUT/model" --reward vote --votes "$VOTES" \
  --group-size "$GROUP" --prompts-per-step "$PROMPTS" --steps "$STEPS" --lr "$LR" "${common[@]}"
answer "$OUT/model" after
python evaluate.py "$OUT/runs/before.jsonl" "$OUT/runs/after.jsonl" --base "$OUT/runs/before.jsonl"
