#!/usr/bin/env bash
# Runs a recipe for real models in the tiny world: the same script with data/tiny_base, the problems
# and traces of data/tiny.py, and what so small a model needs: a larger learning rate, fewer rows a
# step, shorter texts. Offline, on a CPU, in minutes.
#
#   bash recipes/tiny_world.sh s1             or limo, unireason_sft, unireason_rl, gsm8k, countdown
#   SEED=1 LR=1e-3 bash recipes/tiny_world.sh s1     a variable that is set already stays as it is
#
# What is not named here is as in the recipe: LIMO, for one, has 800 traces, 15 epochs, 64 rows a
# step. Learning rates are those of tiny.sh, and lower where a rollout has four updates. s1, limo,
# unireason_rl and countdown were tried once on data/tiny.py's dev split. The head of each recipe
# says what came out on held-out problems.
set -euo pipefail
source "$(dirname "$0")/env.sh"
recipe=${1:-}
default SEED=0
default OUT="out/tiny_world/$recipe/seed$SEED"
default MODEL=data/tiny_base DEVICE=cpu FORMAT=think NAME=rows TEST_NAME=rows
default OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 MPLBACKEND=Agg
world=$OUT/world
problems=                                    # flags of data/tiny.py
case $recipe in
  s1)
    # 400 of 4,000 traces by s1's rules; 300 steps of 16 rows
    default SOURCE="$world/pool.jsonl" METHOD=s1 K=400 EPOCHS=12 LR=2e-3
    default TEST="$world/math.jsonl" TEMPERATURE=0.7 MAX_TOKENS=448 SLOTS=256
    default BUDGETS="0 40 80" WAITS="1 4" WAIT=wait ;;
  limo)
    # 800 of the same 4,000 by LIMO's score
    default SOURCE="$world/pool.jsonl" METHOD=limo CHOOSE="--words extended --length-cap 120"
    default LR=2e-3 TEST="$world/math.jsonl" MAX_TOKENS=320 ;;
  unireason_sft)
    # the teacher's right answers; measured in all three groups of tasks
    default TRACES="$world/pool.jsonl" EPOCHS=3 BATCH=32 LR=2e-3
    default TEST="$world/held_out.jsonl" MAX_TOKENS=320 ;;
  unireason_rl)
    # measured in the same three groups
    default PROBLEMS="$world/train.jsonl" STEPS=100 PROMPTS=16 GROUP=8 LR=2e-4
    default TEST="$world/held_out.jsonl" MAX_TOKENS=128 ;;
  gsm8k)
    # all three tasks of the group math, verified by program
    default TRAIN="$world/train.jsonl" STEPS=100 PROMPTS=16 LR=5e-4
    default TEST="$world/math.jsonl" TEMPERATURE=0.7 MAX_TOKENS=128 ;;
  countdown)
    # `make 20 from 7 5 8` alone; the base model has read how one searches
    problems="--n-train 6000 --n-held-out 900"
    default SOURCE="$world/cd.jsonl" HELD_OUT=300 STEPS=100 PROMPTS=32 LR=5e-4 MAX_TOKENS=128 ;;
  *)
    echo "tiny_world.sh: which recipe? s1, limo, unireason_sft, unireason_rl, gsm8k, countdown" >&2
    exit 2 ;;
esac

python -m data.tiny --out "$world" --seed "$SEED" $problems
grep '"group": "math"' "$world/held_out.jsonl" > "$world/math.jsonl"
# Held-out problems come first: countdown.sh holds out the first of its file.
cat "$world/math.jsonl" "$world/train.jsonl" | grep '"task": "cd"' > "$world/cd.jsonl"
bash "recipes/$recipe.sh"
echo "$recipe in the tiny world, seed $SEED: $SECONDS seconds"
