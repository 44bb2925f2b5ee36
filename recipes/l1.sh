#!/usr/bin/env bash
# L1 (arXiv 2503.04697): a model that thinks for as many tokens as it is told. A budget is drawn for
# each problem and named in the question; LCPO's reward subtracts alpha for each token of distance
# from it.
#
#   MODEL=agentica-org/DeepScaleR-1.5B-Preview DATA=train.jsonl TEST=test.jsonl bash recipes/l1.sh
#   KIND=max ...                                    L1-Max: the budget is a limit, not an aim
#   MODEL=/models/small DATA=train.jsonl TEST=test.jsonl LOW=20 HIGH=60 STEPS=2 DEVICE=cpu \
#     bash recipes/l1.sh                            a trial
#
# Ends with accuracy and tokens used for each budget that is asked for, and how well it is kept.
# Not shown in the tiny world: with budgets of 10 to 50 tokens its base model writes equally many
# for each of them after 100 steps.
set -euo pipefail
source "$(dirname "$0")/env.sh"
: "${MODEL:?a model directory or hub name}" "${DATA:?rows to train on}" "${TEST:?rows to test on}"
default KIND=exact SEED=0 STEPS=700 LOW=100 HIGH=4000 DEVICE=cuda FORMAT=think
default PROMPTS=128 GROUP=16 LR=1e-6 MAX_TOKENS=$((2 * HIGH)) OUT="out/l1-$KIND"
default BUDGETS="$((HIGH / 8)) $((HIGH / 4)) $((HIGH / 2)) $HIGH"
case $KIND in
  max) reward=lcpo_max; ask=l1-max ;;
  *) reward=lcpo; ask=l1 ;;
esac

run grpo.py --model "$MODEL" --data "$DATA" --out "$OUT/model" --format "$FORMAT" --seed "$SEED" \
  --steps "$STEPS" --reward "$reward" --budgets "$LOW" "$HIGH" --max-tokens "$MAX_TOKENS" \
  --prompts-per-step "$PROMPTS" --group-size "$GROUP" --lr "$LR" --device "$DEVICE"
for budget in $BUDGETS; do
  python generate.py --model "$OUT/model" --data "$TEST" --out "$OUT/runs/budget$budget.jsonl" \
    --format "$FORMAT" --ask "$ask:$budget" --seed "$SEED" --temperature 0.6 \
    --max-tokens "$MAX_TOKENS" --device "$DEVICE"
done
python evaluate.py "$OUT"/runs/budget*.jsonl
