#!/usr/bin/env bash
# R1-Zero on Countdown, as in TinyZero (github.com/Jiayi-Pan/TinyZero): from a base model, with R1's
# template; reward 1 for a right equation, 0.1 for the tags alone. 256 prompts a step, answers of up
# to 1,024 tokens, learning rate 1e-6, KL to the base model 0.001. Theirs is PPO with a critic, here
# it is GRPO with 5 samples a prompt. They report that 0.5B does not learn to reason; 3B verifies
# and searches.
#
#   MODEL=Qwen/Qwen2.5-3B bash recipes/countdown.sh               one GPU; needs the hub, or copies:
#   MODEL=/models/qwen SOURCE=countdown.jsonl bash recipes/countdown.sh    rows with nums and target
#   GENERATE=20000 MODEL=/models/qwen bash recipes/countdown.sh          solvable problems made here
#   DEVICE=cpu LIMIT=20 STEPS=1 PROMPTS=4 GROUP=2 MAX_TOKENS=30 bash recipes/countdown.sh    a trial
#
# Planned, not measured (python -m engine.plan --stage grpo, 400 tokens an answer,
# --with-reference): 0.5B on one H100 at 8,192 tokens a micro-batch 25.3 GiB, 0.2 hours per 100
# steps; 3B on two (NPROC=2) 78.1 GiB each, 0.5 hours.
#
# Expected in the tiny world (recipes/tiny_world.sh countdown: three numbers, left to right; 100
# steps; seeds 0, 1, 2; 140 s of one core): 30.0, 29.3, 28.7% -> 70.3, 74.0, 74.3%; thinking 34 ->
# 61 tokens. Right in training, by fifths of the run: 35, 58, 66, 70, 73%. The tiny base model knows
# the tags and has read searches that give up early: RL makes it persist. Learning to search from
# nothing, in R1's template, is not shown.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen2.5-0.5B DEVICE=cuda OUT=out/countdown NAME=countdown LIMIT=0 HELD_OUT=1024
default FORMAT=r1 REWARD=countdown STEPS=200 PROMPTS=256 GROUP=5 LR=1e-6 MAX_TOKENS=1024 MICRO=8192
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
seed=${SEED:+--seed $SEED}
mkdir -p "$OUT"

# 3 or 4 numbers up to 99, combined at random into a target up to 999.
if [ -n "${GENERATE:-}" ]; then
  SOURCE=$OUT/generated.jsonl
  python - "$GENERATE" > "$SOURCE" <<'PYTHON'
import json
import random
import sys

rng = random.Random(0)
n_left = int(sys.argv[1])
while n_left:
    nums = [rng.randint(1, 99) for _ in range(rng.choice([3, 4]))]
    target = nums[0]
    for number in nums[1:]:
        results = [target + number, target - number, target * number]
        if target % number == 0:
            results.append(target // number)
        target = rng.choice(results)
    if 0 < target < 1000:
        rng.shuffle(nums)
        print(json.dumps({"nums": nums, "target": target}))
        n_left -= 1
PYTHON
fi

python -m data.prepare --name "$NAME" ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" \
  --out "$OUT/all.jsonl"
# The first problems are held out.
[ "$LIMIT" = 0 ] || HELD_OUT=$((LIMIT / 4))
head -n "$HELD_OUT" "$OUT/all.jsonl" > "$OUT/test.jsonl"
tail -n "+$((HELD_OUT + 1))" "$OUT/all.jsonl" > "$OUT/train.jsonl"

answer() {                                   # answer MODEL RUN
  run generate.py --model "$1" --data "$OUT/test.jsonl" --out "$OUT/$2.jsonl" --format "$FORMAT" \
    --temperature 0.6 --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE" $seed
}

answer "$MODEL" before
run grpo.py --model "$MODEL" --data "$OUT/train.jsonl" --out "$OUT/model" --format "$FORMAT" \
  --reward "$REWARD" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
  --max-tokens "$MAX_TOKENS" --lr "$LR" --kl k3 --beta 0.001 --micro-batch-tokens "$MICRO" \
  --device "$DEVICE" --dtype "$DTYPE" $seed ${FLAGS:-}
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
python analyze.py --base "$MODEL" --tuned "$OUT/model" --data "$OUT/after.jsonl" \
  --out "$OUT/analysis" --device "$DEVICE"
