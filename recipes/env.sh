# Sourced by every recipe and by tests/run.sh: go to the repository's root, make .venv once, put it
# on the PATH. SKIP_INSTALL=1 uses the python that is there already (a GPU image, a conda
# environment).
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${SKIP_INSTALL:-}" ]; then
  if ! cmp -s requirements.txt .venv/installed.txt; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
      { echo "Python 3.10 or newer is needed as python3" >&2; exit 1; }
    echo "installing requirements.txt into .venv (once, about a minute)"
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed.txt
  fi
  export PATH="$PWD/.venv/bin:$PATH"
fi
export TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1

# run SCRIPT FLAGS: in one process, or with NPROC=8 in one process for each of 8 GPUs.
run() {
  if [ -n "${NPROC:-}" ]; then
    torchrun --standalone --nproc-per-node "$NPROC" -- "$@"
  else
    python "$@"
  fi
}

# side_by_side LEFT FUNCTION RIGHT OTHER: run two functions of a recipe at once, a core for each;
# their lines are marked [LEFT] and [RIGHT]. With LANES=1 one after the other.
side_by_side() {
  if [ "${LANES:-2}" = 1 ]; then
    "$2" > >(sed -u "s/^/[$1]  /") 2>&1
    "$4" > >(sed -u "s/^/  [$3]  /") 2>&1
    return
  fi
  # `set -m` gives the other a process group of its own, so that it can be ended as a whole.
  set -m
  "$4" > >(sed -u "s/^/  [$3]  /") 2>&1 & other=$!
  set +m
  trap 'kill -- -$other 2>/dev/null || true' EXIT
  "$2" > >(sed -u "s/^/[$1]  /") 2>&1
  if ! wait $other; then
    echo "$(basename "$0"): the half marked [$3] failed, see its lines" >&2
    exit 1
  fi
  trap - EXIT
}

# default NAME=VALUE ...: set and export the variables that are not set yet.
default() {
  local pair name
  for pair in "$@"; do
    name=${pair%%=*}
    [ -n "${!name:-}" ] || export "$pair"
  done
}
