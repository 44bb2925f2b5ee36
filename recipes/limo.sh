#!/usr/bin/env bash
# LIMO (arXiv 2502.03387): 800 traces whose quality was judged, 15 epochs, then four samples per problem.
# The released training configuration: 64 rows a step (195 steps), 5e-6 without warm-up, cosine to 0, AdamW 0.9 / 0.999 without
# weight decay, rows cut at 16,384 tokens; its solutions hold reasoning and answer in one text (--format plain). §5: temperature
# 0.6, four samples. The paper: Qwen2.5-32B-Instruct on 64 GPUs. Its system message (boxed answers) is the template's here.
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/limo.sh      one GPU; needs the hub, or local copies:
#   MODEL=/models/qwen SOURCE=limo.jsonl TEST=math500.jsonl bash recipes/limo.sh
#   MODEL=Qwen/Qwen2.5-32B-Instruct NPROC=8 FLAGS="--recompute --adam-dtype bf16" TP=8 bash recipes/limo.sh   one node
#   NAME=rows SOURCE=pool.jsonl METHOD=limo FORMAT=think ...   choose the 800 from traces of one's own by LIMO's score
# Fine-tuning, planned, not measured (engine/plan.py --run limo-32b): 0.5B on one H100 12.1 GiB, 0.3 hours; 32B on 8 x 80 GB with these
# FLAGS 74.9 GiB each, 1.9 hours.
# Expected, in the tiny world (recipes/tiny_world.sh limo; 800 of 4,000 traces; 4 samples; seeds 0, 1, 2; 95 s of one core): 29.6,
# 31.5, 30.7% right before, 53.1, 54.6, 53.9 after; thinking 31 tokens before, 114 after.
# DEVICE=cpu LIMIT=20 EPOCHS=1 MAX_LENGTH=512 MAX_TOKENS=100 N=2 tries the plumbing on a laptop.
set -euo pipefail
source "$(dirname "$0")/env.sh"
MODEL=${MODEL:-Qwen/Qwen2.5-0.5B-Instruct}; DEVICE=${DEVICE:-cuda}; OUT=${OUT:-out/limo}; LIMIT=${LIMIT:-0}; NAME=${NAME:-limo}
DTYPE=${DTYPE:-$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)}; FLAGS=${FLAGS:---recompute}; MAX_LENGTH=${MAX_LENGTH:-16384}
EPOCHS=${EPOCHS:-15}; MAX_TOKENS=${MAX_TOKENS:-16384}; seed=${SEED:+--seed $SEED}
run() { if [ -n "${NPROC:-}" ]; then torchrun --nproc-per-node "$NPROC" -- "$@"; else python "$@"; fi; }   # NPROC: GPUs

python -m data.prepare --name "$NAME" ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" --out "$OUT/pool.jsonl"
python -m data.prepare --name "${TEST_NAME:-math500}" ${TEST:+--source "$TEST"} --limit "$LIMIT" --out "$OUT/math500.jsonl"
TRACES=$OUT/pool.jsonl                       # the released rows, chosen already
if [ -n "${METHOD:-}" ]; then
  TRACES=$OUT/traces.jsonl
  python curate.py --data "$OUT/pool.jsonl" --against "$OUT/math500.jsonl" --method "$METHOD" --k 800 ${CHOOSE:-} \
    --out "$TRACES"
fi
run sft.py --model "$MODEL" --data "$TRACES" --out "$OUT/model" --format "${FORMAT:-plain}" --epochs "$EPOCHS" \
  --batch-rows 64 --lr "${LR:-5e-6}" --warmup 0 --weight-decay 0 --beta1 0.9 --beta2 0.999 --max-length "$MAX_LENGTH" \
  --micro-batch-tokens "$MAX_LENGTH" --device "$DEVICE" --dtype "$DTYPE" $seed $FLAGS
answer() { run generate.py --model "$1" --data "$OUT/math500.jsonl" --out "$OUT/$2.jsonl" --format "${FORMAT:-plain}" \
  --n "${N:-4}" --temperature 0.6 --max-tokens "$MAX_TOKENS" $seed --device "$DEVICE" --dtype "$DTYPE" \
  --tp "${TP:-1}"; }
answer "$MODEL" before
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
