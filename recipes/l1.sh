#!/usr/bin/env bash
# L1 (arXiv 2503.04697): a model that thinks for as many tokens as it is told. A budget is drawn for
# each problem and named in the question; LCPO's reward subtracts alpha for each token of distance
# from it.
#
#   bash recipes/l1.sh --seeds 3                    tiny world: recipes/studies/l1.study
#   MODEL=agentica-org/DeepScaleR-1.5B-Preview DATA=train.jsonl TEST=test.jsonl bash recipes/l1.sh
#   KIND=max ...                                    L1-Max: the budget is a limit, not an aim
#   WORDS=first WARM=used:100:4000:100:500 ...      a base that cannot follow the sentence: the number
#                                                   alone, learned first from its own answers
#   MODEL=/models/small DATA=train.jsonl TEST=test.jsonl LOW=20 HIGH=60 STEPS=2 DEVICE=cpu \
#     bash recipes/l1.sh                            a trial
#
# Ends with accuracy, tokens used and how well the budget was kept for each that is asked for, and
# beside them the model that training starts from, cut at the same budgets (S1 in the paper).
set -euo pipefail
if [ -z "${MODEL:-}" ]; then exec bash "$(dirname "$0")/study.sh" l1 "$@"; fi
source "$(dirname "$0")/env.sh"
: "${DATA:?rows to train on}" "${TEST:?rows to test on}"
default KIND=exact WORDS=l1 SEED=0 STEPS=700 LOW=100 HIGH=4000 DEVICE=cuda FORMAT=think
default PROMPTS=128 GROUP=16 LR=1e-6 ALPHA=0.0003 MAX_TOKENS=$((2 * HIGH)) OUT="out/l1-$KIND"
# tokens of a budget that are left for the answer when thinking is cut
default ANSWER=$((LOW / 2)) SFT_LR=1e-5 EPOCHS=3
default BUDGETS="$((HIGH / 8)) $((HIGH / 4)) $((HIGH / 2)) $HIGH"
case $KIND in
  max) reward=lcpo_max ask=l1-max ;;
  *) reward=lcpo ask=l1 ;;
esac
if [ "$WORDS" = first ]; then ask=first; fi
common=(--format "$FORMAT" --seed "$SEED" --device "$DEVICE")

answer() {                                   # answer MODEL RUN [flags]
  python generate.py --model "$1" --data "$TEST" --out "$OUT/runs/$2.jsonl" "${common[@]}" \
    --temperature 0.6 --max-tokens "$MAX_TOKENS" "${@:3}"
}

start=$MODEL
if [ -n "${WARM:-}" ]; then
  start=$OUT/warm
  python generate.py --model "$MODEL" --data "$DATA" --out "$OUT/own.jsonl" "${common[@]}" \
    --temperature 1 --max-tokens "$MAX_TOKENS"
  python curate.py --data "$OUT/own.jsonl" --method full --budget "$WARM" --out "$OUT/warm.jsonl"
  run sft.py --model "$MODEL" --data "$OUT/warm.jsonl" --out "$start" "${common[@]}" \
    --lr "$SFT_LR" --epochs "$EPOCHS"
fi
run grpo.py --model "$start" --data "$DATA" --out "$OUT/model" "${common[@]}" \
  --steps "$STEPS" --reward "$reward:alpha=$ALPHA" --budgets "$LOW" "$HIGH" \
  --budget-words "$WORDS" --max-tokens "$MAX_TOKENS" --prompts-per-step "$PROMPTS" \
  --group-size "$GROUP" --lr "$LR"
for budget in $BUDGETS; do
  answer "$OUT/model" "budget$budget" --ask "$ask:$budget"
  answer "$MODEL" "cut$budget" --thinking-budget $((budget > ANSWER ? budget - ANSWER : 0))
done
python evaluate.py "$OUT"/runs/*.jsonl
