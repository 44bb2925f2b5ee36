#!/usr/bin/env bash
# Sizes and backbones: bases of the tiny world by width, layers, family (Qwen3, Llama) and documents;
# what each gains from LIMO's traces (arXiv 2502.03387), and from RL before and after mid-training on
# searches. Bases are made from nothing, minutes of a core each; recipes/studies/sizes.study has the
# settings.
#
#   bash recipes/sizes.sh --seeds 3
set -euo pipefail
exec bash "$(dirname "$0")/study.sh" sizes "$@"
