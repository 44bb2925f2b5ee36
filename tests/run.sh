#!/usr/bin/env bash
# The test command: `bash tests/run.sh`, with pytest's own arguments behind it if wanted (-k packing, -x, ...).
set -euo pipefail
source "$(dirname "$0")/../recipes/env.sh"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1
exec python -m pytest -q -rs -p no:cacheprovider tests "$@"
