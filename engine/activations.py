"""The most memory that the activations of a micro-batch take, simulated before anything is loaded.

The micro-batch goes through engine/model.py forward and backward at full width, on PyTorch's fake
tensors. They have shapes but no numbers, so they take no memory. A ledger counts the bytes of the
tensors that would be alive. That is done with 2 and with 4 layers. The whole model is on the
straight line through both, because every layer leaves as much for the backward pass.
"""

import copy
import functools
import json
import math
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from engine import attention, lora, packing
from engine import model as models
from kernels import reference

# The backward pass begins with the top layer ("first") and ends with the bottom one ("last").
PHASES = ("head", "first", "last")


def activation_bytes(
    config, lengths, dtype="bf16", shards=True, recompute=False, on_gpu=True, rank=0
):
    """The most bytes alive in each of PHASES, beyond weights and gradients -> {phase: bytes}.

    config: the model's. lengths: of the sequences of the micro-batch. rank: of LoRA's adapters.
    "head" is the forward pass and the head, "first" the backward pass of the top layer and "last"
    that of the bottom layer.
    """
    # lru_cache wants arguments that can be hashed.
    derived = ("model_type", "transformers_version", "layer_types")
    own = {name: value for name, value in config.to_diff_dict().items() if name not in derived}
    model = config.model_type, json.dumps(own, default=str)
    options = tuple(lengths), dtype, shards, recompute, on_gpu, rank
    of_two = _simulate(*model, 2, *options)
    of_four = _simulate(*model, 4, *options)
    n_more = config.num_hidden_layers - 2
    return {
        phase: round(of_two[phase] + (of_four[phase] - of_two[phase]) / 2 * n_more)
        for phase in PHASES
    }


def with_layers(config, n):
    """A copy of the model's config with n layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = n
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * n)[:n]
    return config


@functools.lru_cache(maxsize=64)
def _simulate(family, config_json, n_layers, lengths, dtype, shards, recompute, on_gpu, rank):
    """One forward and backward pass over fake tensors -> {phase: most bytes}."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    AttentionInterface.register("planned", attention_on_gpu)
    config = with_layers(AutoConfig.for_model(family, **json.loads(config_json)), n_layers)
    batch = packing.pack([[0] * n for n in lengths])
    packed = attention.Packed(lengths, "cpu")
    is_half = dtype == "bf16"
    uses_kernels = on_gpu and is_half
    # FSDP gathers weights in bfloat16, and frozen ones are kept so; a plain model has them in
    # float32, and autocast.
    weight_type = torch.bfloat16 if is_half and (shards or rank) else torch.float32
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=is_half and not shards)

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=weight_type,
            attn_implementation="planned" if uses_kernels else "packed",
        )
        if rank:
            lora.attach(model, lora.Shape(rank, alpha=1.0, seed=0))
        ledger = Ledger()
        for tensor in (*model.parameters(), *model.buffers()):
            ledger.leave_out(tensor)
        for p in model.parameters():  # gradients are counted apart: drop each when it is there
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        layers = models.layers(model)
        if recompute:
            for layer in layers:
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        _mark_phases(layers, ledger)
        with ledger:
            with autocast:
                hidden = models.hidden_states(model, batch.ids, batch.positions, packed)
                hidden = hidden[batch.where]
                logp = reference.token_stats(
                    hidden,
                    models.output_head(model),
                    batch.target,
                    backend=FakeLinear if uses_kernels else None,
                ).logp
            del hidden
            (-logp.sum() / len(batch.target)).backward()
    return {phase: ledger.most[phase] for phase in PHASES}


def _mark_phases(layers, ledger):
    """Tell the ledger when the backward pass comes to the top layer and to the bottom one."""
    for i, layer in enumerate(layers):
        phase = {0: "last", len(layers) - 1: "first"}.get(i, "between")

        def watch(layer, inputs, output, phase=phase):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.register_hook(lambda gradient: ledger.enter(phase))

        layer.register_forward_hook(watch)


class Ledger(TorchDispatchMode):
    """While entered, counts the bytes of all live tensors, and the most in each phase.

    A program that asks for numbers, which fake tensors do not have, gets the answer yes, or as many
    numbers as there can be.
    """

    def __init__(self):
        super().__init__()
        self.live = 0
        self.phase = "head"
        self.most = {}  # phase -> most bytes
        self.counted = torch.utils.weak.WeakIdKeyDictionary()  # storages that have been counted

    def enter(self, phase):
        self.phase = phase

    def leave_out(self, tensor):
        self.counted[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten._local_scalar_dense.default:  # item()
            return 1
        if function is torch.ops.aten.nonzero.default:
            x = arguments[0]
            result = x.new_zeros((x.numel(), x.ndim), dtype=torch.int64)
        else:
            result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf.untyped_storage())
        return result

    def add(self, storage):
        if storage in self.counted:
            return
        self.counted[storage] = True
        n = storage.nbytes()
        weakref.finalize(storage, self.remove, n)
        self.live += n
        self.most[self.phase] = max(self.live, self.most.get(self.phase, 0))

    def remove(self, n):
        self.live -= n


# ---------------------------------------------------------------- what a GPU does otherwise


class FakeLinear:
    """Takes the memory that kernels/linear.py takes on a GPU, and computes nothing."""

    SPAN = 512  # as there: vocabulary entries of one program
    N_PARTS = 16  # as there: parts of the vocabulary in the backward pass

    @classmethod
    def chunk_size(cls, n_rows, n_vocab):
        return math.ceil(n_vocab / cls.N_PARTS / 128) * 128

    @classmethod
    def statistics(cls, hidden, head, target, threshold, temperature, want):
        n_spans = math.ceil(len(head.weight) / cls.SPAN)
        parts = hidden.new_empty(5, n_spans, len(hidden), dtype=torch.float32)
        logit = parts[0, :1]
        entropy = parts[1] if "entropy" in want else None
        return reference.merge_parts(reference.PartStats(logit, parts[0], entropy))

    @staticmethod
    def logit_gradient(hidden, head, *_):
        return hidden.new_empty(len(hidden), len(head.weight))


def attention_on_gpu(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    sequences=None,
    sliding_window=None,
    **_,
):
    """engine/attention.py's branch for a GPU, which fake tensors on the CPU would not take."""
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    out = attention.flash_packed(query, key, value, sequences, scaling, sliding_window)
    return out[None], None
