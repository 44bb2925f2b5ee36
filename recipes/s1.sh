#!/usr/bin/env bash
# s1 (arXiv 2501.19393): fine-tune on s1K, then trade thinking tokens for accuracy with budget
# forcing. §D: 5 epochs, 16 rows a step (315 steps), peak 1e-5, 5% warm-up, cosine to 0, AdamW 0.9 /
# 0.95, weight decay 1e-4, rows of up to 32,768 tokens. The paper: Qwen2.5-32B-Instruct, 26 minutes
# on 16 H100.
#
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/s1.sh           one GPU; needs the hub, or copies:
#   MODEL=/models/qwen SOURCE=s1k.parquet TEST=math500.jsonl bash recipes/s1.sh
#   MODEL=Qwen/Qwen2.5-32B-Instruct NPROC=8 TP=8 FLAGS="--recompute --adam-dtype bf16" \
#     bash recipes/s1.sh                                            one node
#   NAME=rows SOURCE=pool.jsonl METHOD=s1 K=1000 ...               choose traces of your own by s1's
#     rules (the model tries each problem twice: what it can do is too easy)
#   DEVICE=cpu LIMIT=20 EPOCHS=1 MAX_TOKENS=200 BUDGETS=50 WAITS=1 bash recipes/s1.sh        a trial
#
# Fine-tuning, planned, not measured (python -m engine.plan --run s1-32b): 0.5B on one H100 14.9
# GiB, 6 minutes; 32B on 8 x 80 GB with these FLAGS 76.6 GiB each, 0.6 hours; on 8 H200 without
# --adam-dtype 92.7 GiB, 0.6 hours.
#
# Expected in the tiny world (recipes/tiny_world.sh s1; 400 traces of 4,000; seeds 0, 1, 2; 100 s of
# one core): no thinking 11.0, 8.0, 10.0% right; cut after 40 tokens 21.3, 23.0, 20.3%, after 80
# 34.0, 35.0, 34.3%; as long as it likes (90 tokens) 41.3, 44.7, 41.0%; one Wait 53.0, 55.3, 48.3%;
# four 53.3, 54.3, 46.0%.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen2.5-0.5B-Instruct DEVICE=cuda OUT=out/s1 LIMIT=0
default NAME=s1k TEST_NAME=math500 FORMAT=s1 METHOD=full K=1000 FLAGS=--recompute EPOCHS=5 LR=1e-5
default TEMPERATURE=0 MAX_TOKENS=32000 SLOTS=64 TP=1 WAIT=Wait
default BUDGETS="500 1000 2000 4000 8000 16000" WAITS="1 2 4 6"
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
seed=${SEED:+--seed $SEED}

python -m data.prepare --name "$NAME" ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" \
  --out "$OUT/pool.jsonl"
# The bare question, as in s1's training rows.
python -m data.prepare --name "$TEST_NAME" ${TEST:+--source "$TEST"} --limit "$LIMIT" --ask '' \
  --out "$OUT/math500.jsonl"

answer() {                                   # answer MODEL PROBLEMS RUN [flags]
  local model=$1 problems=$2 out=$3
  shift 3
  run generate.py --model "$model" --data "$OUT/$problems.jsonl" --out "$OUT/$out.jsonl" \
    --format "$FORMAT" $seed --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" \
    --slots "$SLOTS" --device "$DEVICE" --dtype "$DTYPE" --tp "$TP" "$@"
}

choose=(--method "$METHOD" --k "$K")
if [ "$METHOD" = s1 ]; then                  # what the model can do already is too easy
  answer "$MODEL" pool attempts --n 2 --temperature 0.7
  choose+=(--attempts "$OUT/attempts.jsonl")
fi
python curate.py --data "$OUT/pool.jsonl" --against "$OUT/math500.jsonl" "${choose[@]}" \
  --out "$OUT/traces.jsonl"

run sft.py --model "$MODEL" --data "$OUT/traces.jsonl" --out "$OUT/model" --format "$FORMAT" \
  --epochs "$EPOCHS" --batch-rows 16 --lr "$LR" --warmup 0.05 --weight-decay 1e-4 --beta1 0.9 \
  --beta2 0.95 $seed --device "$DEVICE" --dtype "$DTYPE" $FLAGS

answer "$OUT/model" math500 natural
for budget in $BUDGETS; do
  answer "$OUT/model" math500 "budget$budget" --thinking-budget "$budget"
done
for waits in $WAITS; do
  answer "$OUT/model" math500 "wait$waits" --waits "$waits" --wait "$WAIT"
done
python evaluate.py "$OUT"/natural.jsonl "$OUT"/budget*.jsonl "$OUT"/wait*.jsonl \
  --base "$OUT/natural.jsonl"
