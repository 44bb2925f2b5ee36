"""Token statistics from hidden states and a head, without vocabulary-sized logits for the whole batch.

reference.py  plain PyTorch in chunks: what runs on a CPU, and what a kernel is tested against
"""
from kernels.reference import TokenStats, decode_attention, log_softmax_kl, token_kl, token_stats

__all__ = ["TokenStats", "decode_attention", "log_softmax_kl", "token_kl", "token_stats"]
