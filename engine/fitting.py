"""Micro-batches that fit into free memory.

    memory = what is held + gradients + Adam's moments + constant + tokens · bytes per token

A layer keeps about its linear maps' inputs and outputs for the backward pass. That is a formula of
a line, ready at once for any model; engine/activations.py simulates the same, in seconds, and the
tests compare the two.
"""

import dataclasses
import os
from typing import NamedTuple

import torch

from engine import machine, processes
from engine import model as models

MOST = 32768  # tokens of the largest micro-batch that is chosen
LEAST = 64
SHARE = 0.8  # of free memory that is planned for: allocators lose some, others want some
# On a CPU a micro-batch of so many parameters times tokens is as fast as a larger one: 512 tokens
# of a 135M model, 32,768 of a tiny one. What is beyond only takes memory.
ENOUGH_ON_CPU = 6.5e10
LARGE = 5e7  # parameters from which memory is scarcer than time, on a CPU
# Kept by a layer, in numbers of its linear maps' inputs and outputs: norms, rotations, products.
MORE_THAN_MAPS = 1.25
HEAD = 64e6  # bytes: a part of the vocabulary's logits, and what is made of them
GPU_PARTS = 16  # parts of the vocabulary on a GPU (kernels/linear.py)


class Needs(NamedTuple):
    """Bytes that training takes beyond the weights and what else is held already."""

    state: float  # gradients, and Adam's moments where they are not there yet
    constant: float  # of a micro-batch of any size
    per_token: float

    def of(self, n_tokens):
        return self.state + self.constant + n_tokens * self.per_token


def with_micro_batch(cfg, run, longest):
    """cfg with --micro-batch-tokens 0 replaced by what fits; says what it chose, and its memory.

    A run that continues keeps the size that it began with, which decides the order of its sums.
    longest: tokens of the longest row, which no micro-batch can split.
    """
    ranks = run.ranks
    kind = torch.device(ranks.device).type
    free = machine.free_memory(ranks.device)
    n_parameters = sum(p.numel() for p in run.model.parameters())
    if kind == "cpu":
        if n_parameters >= LARGE:
            machine.return_freed_tensors()
        # The processes of one machine share it.
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    needs = needs_of(run.model, run.optimizers, cfg, kind)
    tokens = cfg.micro_batch_tokens or run.noted.get("micro_batch_tokens", 0)
    if not tokens:
        fitting = fitting_tokens(needs, SHARE * free, most_tokens(kind, n_parameters))
        tokens = min(processes.gather_from_ranks(fitting, ranks))
    run.say(describe(kind, tokens, needs, free, longest))
    run.cfg = dataclasses.replace(cfg, micro_batch_tokens=tokens)
    return run.cfg


def most_tokens(kind, n_parameters):
    """Tokens beyond which a micro-batch is no faster."""
    if kind != "cpu":
        return MOST
    return max(512, min(MOST, int(ENOUGH_ON_CPU / n_parameters)))


def fitting_tokens(needs, room, most):
    """The most tokens, at most `most`, that fit into so many bytes; LEAST if none do."""
    tokens = int((room - needs.of(0)) / needs.per_token)
    return max(LEAST, min(most, tokens - tokens % LEAST))


def describe(kind, tokens, needs, free, longest):
    """A line on what will be used, and one more if the longest row may not fit."""
    used = needs.of(max(tokens, longest))
    line = f"{kind}: micro-batches of up to {tokens:,} tokens"
    if longest > tokens:
        line += f", a longer row (up to {longest:,}) by itself"
    line += f"; about {used / 1e9:.1f} GB beside the weights"
    if free < machine.UNKNOWN:
        line += f", {free / 1e9:.1f} GB are free"
    if used > free:
        line += (
            "\nwarning: this may not fit; --recompute, --adam-dtype bf16, --lora, a smaller "
            "--micro-batch-tokens or --max-length take less"
        )
    return line


def needs_of(model, optimizers, cfg, kind):
    """The memory of training a model -> Needs. Of a model in shards, on this rank."""
    size = 4 if cfg.dtype == "fp32" else 3  # half precision: of products; sums stay in float32
    layers = models.layers(model)
    maps = sum(map(numbers_of_maps, layers)) * MORE_THAN_MAPS
    embedding = model.get_input_embeddings().weight
    vocabulary, width = embedding.shape
    if cfg.recompute:  # an input of each layer, and all of one layer
        maps = width * len(layers) + maps / len(layers)
    per_token = size * (maps + 4 * width)
    if kind != "cpu":
        per_token += 10 * vocabulary / GPU_PARTS  # logits in half precision, and in float32
    # The gradient of a tied embedding is whole twice, before the two are added; half precision has
    # a copy of the head.
    of_ends = 8 if cfg.dtype == "fp32" else 10
    constant = HEAD + (of_ends * embedding.numel() if embedding.requires_grad else 0)
    return Needs(state_bytes(optimizers, cfg.adam_dtype), constant, per_token)


def state_bytes(optimizers, adam_dtype):
    """Float32 gradients of all trained weights, and the two moments of those that have none yet."""
    n_bytes = 0
    for optimizer in optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            n_bytes += 4 * p.numel()
            if p not in optimizer.state:
                n_bytes += 2 * (2 if adam_dtype == "bf16" else 4) * p.numel()
    return n_bytes


def numbers_of_maps(layer):
    """Inputs and outputs of all linear maps of a layer, for one token."""
    return sum(
        module.in_features + module.out_features
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    )
