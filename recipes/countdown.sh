#!/usr/bin/env bash
# R1-Zero on Countdown, in the manner of TinyZero (github.com/Jiayi-Pan/TinyZero): from a base model, R1's template, reward 1 for a
# right equation, 0.1 for the tags alone. 256 prompts a step, answers of up to 1,024 tokens, 1e-6, KL to the base 0.001; theirs is
# PPO with a critic, here GRPO with 5 samples a prompt. They report: 0.5B does not learn to reason, 3B verifies and searches.
#   MODEL=Qwen/Qwen2.5-3B bash recipes/countdown.sh            one GPU; needs the hub, or local copies:
#   MODEL=/models/qwen SOURCE=countdown.jsonl bash recipes/countdown.sh                 rows with nums and target
#   GENERATE=20000 MODEL=/models/qwen bash recipes/countdown.sh                         solvable problems made here
# Planned, not measured (engine/plan.py --stage grpo, 400 tokens an answer, --with-reference): 0.5B on one H100 at 8,192 tokens a
# micro-batch 25.3 GiB, 0.2 hours per 100 steps; 3B on two (NPROC=2) 78.1 GiB each, 0.5 hours.
# Expected, in the tiny world (recipes/tiny_world.sh countdown: three numbers, left to right; 100 steps; seeds 0, 1, 2; 140 s of
# one core): 30.0, 29.3, 28.7% -> 70.3, 74.0, 74.3, thinking 34 -> 61 tokens; right in training, by fifths of the run: 35, 58, 66,
# 70, 73%. Its base model knows the tags and has read searches that give up early: RL makes it persist. Search from nothing, in
# R1's template, is not shown.
# DEVICE=cpu LIMIT=20 STEPS=1 PROMPTS=4 GROUP=2 MAX_TOKENS=30 tries the plumbing on a laptop.
set -euo pipefail
source "$(dirname "$0")/env.sh"
MODEL=${MODEL:-Qwen/Qwen2.5-0.5B}; DEVICE=${DEVICE:-cuda}; OUT=${OUT:-out/countdown}; LIMIT=${LIMIT:-0}
DTYPE=${DTYPE:-$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)}; MAX_TOKENS=${MAX_TOKENS:-1024}; HELD_OUT=${HELD_OUT:-1024}
NAME=${NAME:-countdown}; FORMAT=${FORMAT:-r1}; seed=${SEED:+--seed $SEED}
run() { if [ -n "${NPROC:-}" ]; then torchrun --nproc-per-node "$NPROC" -- "$@"; else python "$@"; fi; }   # NPROC: GPUs
mkdir -p "$OUT"

if [ -n "${GENERATE:-}" ]; then              # 3 or 4 numbers up to 99, combined at random into a target up to 999
  SOURCE=$OUT/generated.jsonl
  python - "$GENERATE" > "$SOURCE" <<'END'
import json
import random
import sys
rng, n_left = random.Random(0), int(sys.argv[1])
while n_left:
    nums = [rng.randint(1, 99) for _ in range(rng.choice([3, 4]))]
    target = nums[0]
    for number in nums[1:]:
        choices = [target + number, target - number, target * number] + [target // number] * (target % number == 0)
        target = rng.choice(choices)
    if 0 < target < 1000:
        rng.shuffle(nums)
        print(json.dumps({"nums": nums, "target": target}))
        n_left -= 1
END
fi
python -m data.prepare --name "$NAME" ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" --out "$OUT/all.jsonl"
[ "$LIMIT" = 0 ] || HELD_OUT=$((LIMIT / 4))  # the first problems are held out
head -n "$HELD_OUT" "$OUT/all.jsonl" > "$OUT/test.jsonl"
tail -n "+$((HELD_OUT + 1))" "$OUT/all.jsonl" > "$OUT/train.jsonl"
answer() { run generate.py --model "$1" --data "$OUT/test.jsonl" --out "$OUT/$2.jsonl" --format "$FORMAT" \
  --temperature 0.6 --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE" $seed; }
answer "$MODEL" before
run grpo.py --model "$MODEL" --data "$OUT/train.jsonl" --out "$OUT/model" --format "$FORMAT" --reward "${REWARD:-countdown}" \
  --steps "${STEPS:-200}" --prompts-per-step "${PROMPTS:-256}" --group-size "${GROUP:-5}" --max-tokens "$MAX_TOKENS" \
  --lr "${LR:-1e-6}" --kl k3 --beta 0.001 --micro-batch-tokens "${MICRO:-8192}" --device "$DEVICE" --dtype "$DTYPE" $seed ${FLAGS:-}
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
python analyze.py --base "$MODEL" --tuned "$OUT/model" --data "$OUT/after.jsonl" --out "$OUT/analysis" --device "$DEVICE"
