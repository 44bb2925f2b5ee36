#!/usr/bin/env bash
# LIMO (arXiv 2502.03387): 800 traces whose quality was judged, 15 epochs, then four samples per
# problem. The released training configuration: 64 rows a step (195 steps), 5e-6 without warm-up,
# cosine to 0, AdamW 0.9 / 0.999 without weight decay, rows cut at 16,384 tokens. Its solutions have
# reasoning and answer in one text (--format plain). §5: temperature 0.6, four samples. The paper
# trains Qwen2.5-32B-Instruct on 64 GPUs. Its system message asks for boxed answers; here the
# questions do, in training and in the test.
#
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/limo.sh         one GPU; needs the hub, or copies:
#   MODEL=/models/qwen SOURCE=limo.jsonl TEST=math500.jsonl bash recipes/limo.sh
#   MODEL=Qwen/Qwen2.5-32B-Instruct NPROC=8 TP=8 FLAGS="--recompute --adam-dtype bf16" \
#     bash recipes/limo.sh                                          one node
#   NAME=rows SOURCE=pool.jsonl METHOD=limo FORMAT=think ...        choose the 800 by LIMO's score
#   DEVICE=cpu LIMIT=20 EPOCHS=1 MAX_LENGTH=512 MAX_TOKENS=100 N=2 bash recipes/limo.sh      a trial
#
# Fine-tuning, planned, not measured (python -m engine.plan --run limo-32b): 0.5B on one H100 12.1
# GiB, 0.3 hours; 32B on 8 x 80 GB with these FLAGS 74.9 GiB each, 1.9 hours.
#
# Expected in the tiny world (recipes/tiny_world.sh limo; 800 of 4,000 traces; 4 samples; seeds 0,
# 1, 2; 95 s of one core): 29.6, 31.5, 30.7% right before, 53.1, 54.6, 53.9% after; thinking 31
# tokens before, 114 after.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen2.5-0.5B-Instruct DEVICE=cuda OUT=out/limo LIMIT=0
default NAME=limo TEST_NAME=math500 FORMAT=plain FLAGS=--recompute
default EPOCHS=15 LR=5e-6 MAX_LENGTH=16384 N=4 MAX_TOKENS=16384 TP=1
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
seed=${SEED:+--seed $SEED}

python -m data.prepare --name "$NAME" ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" \
  --out "$OUT/pool.jsonl"
python -m data.prepare --name "$TEST_NAME" ${TEST:+--source "$TEST"} --limit "$LIMIT" \
  --out "$OUT/math500.jsonl"
traces=$OUT/pool.jsonl                       # the released rows are chosen already
if [ -n "${METHOD:-}" ]; then
  traces=$OUT/traces.jsonl
  python curate.py --data "$OUT/pool.jsonl" --against "$OUT/math500.jsonl" --method "$METHOD" \
    --k 800 ${CHOOSE:-} --out "$traces"
fi

answer() {                                   # answer MODEL RUN
  run generate.py --model "$1" --data "$OUT/math500.jsonl" --out "$OUT/$2.jsonl" \
    --format "$FORMAT" --n "$N" --temperature 0.6 --max-tokens "$MAX_TOKENS" $seed \
    --device "$DEVICE" --dtype "$DTYPE" --tp "$TP"
}

run sft.py --model "$MODEL" --data "$traces" --out "$OUT/model" --format "$FORMAT" \
  --epochs "$EPOCHS" --batch-rows 64 --lr "$LR" --warmup 0 --weight-decay 0 --beta1 0.9 \
  --beta2 0.999 --max-length "$MAX_LENGTH" --micro-batch-tokens "$MAX_LENGTH" --device "$DEVICE" \
  --dtype "$DTYPE" $seed $FLAGS
answer "$MODEL" before
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
