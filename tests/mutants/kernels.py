"""Mistakes in kernels/."""

MUTANTS = [
    (
        "kernels/attention.py",
        "used = split * share < end - first  # (S,)",
        "used = split >= 0",
        "splits without cells take part",
        "test_triton.py::test_in_the_interpreter[attention]",
    ),
    (
        "kernels/attention.py",
        "first = tl.maximum(last - WINDOW + 1, 0) if WINDOW else last * 0",
        "first = tl.maximum(last - WINDOW, 0) if WINDOW else last * 0",
        "window one cell too long",
        "test_triton.py::test_in_the_interpreter[attention]",
    ),
    (
        "kernels/linear.py",
        "above += tl.sum(((z > bound) & (v != own)).to(tl.float32), 1)",
        "above += tl.sum(((z >= bound) & (v != own)).to(tl.float32), 1)",
        "the kernel counts ties",
        "test_triton.py::test_in_the_interpreter[linear]",
    ),
    (
        "kernels/pair.py",
        "return head.temper((hidden * head.weight[target]).sum(1))",
        "return (hidden * head.weight[target]).sum(1)",
        "rank counted from a target's logit without its cap",
        "test_analyze.py::test_token_numbers_in_chunks",
    ),
    (
        "kernels/pair.py",
        "gap, ratio = z_p.sub_(z_q), log_q - log_p",
        "gap, ratio = z_p.sub_(z_q), log_p - log_q",
        "KL of a chunk with its normalisers exchanged",
        "test_analyze.py::test_token_numbers_in_chunks",
    ),
    (
        "kernels/parallel.py",
        "dist.all_reduce(gradient, group=ctx.group)",
        "pass",
        "a rank's hidden states get the gradient of its own shard only",
        "test_kernels.py::test_sharded_head_equals_whole_head",
    ),
    (
        "kernels/parallel.py",
        "dist.all_reduce(threshold, group=group)",
        "pass",
        "ranks count against 0 where the target is another's",
        "test_kernels.py::test_sharded_head_equals_whole_head",
    ),
    (
        "kernels/reference.py",
        "above += torch.gt(z, threshold[:, None], out=e).sum(1).long()",
        "above += torch.ge(z, threshold[:, None], out=e).sum(1).long() - (start == 0)",
        "ties push the target down",
        "test_kernels.py::test_ties_do_not_push_the_target_down",
    ),
    (
        "kernels/reference.py",
        "return total, None if entropy is None else (log_share.exp() * (entropy - log_share)).sum(0)",
        "return total, None if entropy is None else (log_share.exp() * entropy).sum(0)",
        "entropy of the whole without that of choosing the part",
        "test_kernels.py::test_token_stats_against_float64",
    ),
    (
        "kernels/reference.py",
        "logit[here] = z[here, target[here] - start]",
        "logit[here] = z[here, target[here].clamp(max=z.shape[1] - 1)]",
        "targets not counted from the start of their chunk",
        "test_kernels.py::test_token_stats_against_float64",
    ),
    (
        "kernels/reference.py",
        "target - start,",
        "target,",
        "backward: targets not counted from the start of the part",
        "test_kernels.py::test_gradcheck",
    ),
    (
        "kernels/reference.py",
        (
            "factor = (\n"
            "    ((logsumexp - entropy)[:, None] - z)\n"
            "    .mul_(for_entropy[:, None] / temperature)\n"
            "    .add_(factor)\n"
            ")"
        ),
        "factor = (logsumexp[:, None] - z).mul_(for_entropy[:, None] / temperature).add_(factor)",
        "gradient of the entropy without the entropy itself",
        "test_kernels.py::test_gradcheck",
    ),
    (
        "kernels/reference.py",
        "softcap = None if self.softcap is None else self.softcap / self.scale",
        "softcap = self.softcap",
        "a scaled head whose softcap is not divided by the scale",
        "test_kernels.py::test_token_stats_against_float64",
    ),
    (
        "kernels/reference.py",
        "slope *= 1 - (z * (temperature / softcap)) ** 2  # slope of the cap",
        "slope *= 1 - (z / softcap) ** 2",
        "the cap's gradient taken at the tempered logit",
        "test_kernels.py::test_gradcheck",
    ),
    (
        "kernels/reference.py",
        (
            "return (log_p.exp() * (forward + log_p - log_q)).sum(0), (\n"
            "    log_q.exp() * (reverse + log_q - log_p)\n"
            ").sum(0)"
        ),
        "return (log_p.exp() * forward).sum(0), (log_q.exp() * reverse).sum(0)",
        "KL of the whole without that of the parts",
        "test_kernels.py::test_token_kl_of_different_widths_against_float64",
    ),
    (
        "kernels/reference.py",
        "return (logp.exp() * difference).sum(1), -(logq.exp() * difference).sum(1)",
        "return (logp.exp() * difference).sum(1), (logq.exp() * difference).sum(1)",
        "the reverse KL has the wrong sign",
        "test_kernels.py::test_token_kl_by_hand",
    ),
    (
        "kernels/reference.py",
        "z = products.to(torch.promote_types(products.dtype, torch.float32))",
        "z = products",
        "log-softmax in half precision",
        "test_kernels.py::test_bfloat16_is_no_worse_than_the_plain_computation",
    ),
    (
        "kernels/reference.py",
        "is_seen = cell <= lengths[:, None]  # (B, L)",
        "is_seen = (cell < lengths[:, None]) | (lengths[:, None] == 0)",
        "a token does not see itself",
        "test_decoder.py::test_greedy_equals_transformers",
    ),
    (
        "kernels/reference.py",
        "is_seen &= cell > lengths[:, None] - window",
        "is_seen &= cell >= lengths[:, None] - window",
        "a window one token too wide",
        "test_decoder.py::test_decode_attention_against_loops",
    ),
    (
        "kernels/reference.py",
        "slope = (z - logsumexp[:, None]).exp_().mul_(factor)",
        "slope = z.sub_(logsumexp[:, None]).exp_().mul_(factor)",
        "kept logits are overwritten by the first backward pass",
        "test_kernels.py::test_few_logits_are_kept",
    ),
    (
        "kernels/reference.py",
        "scores = softcap * torch.tanh(scores / softcap)",
        "scores = scale * softcap * torch.tanh(scores / scale / softcap)",
        "scores are capped before they are scaled",
        "test_families.py::test_half_precision_with_caps_is_no_worse_than_transformers",
    ),
    (
        "kernels/softmax_kl.py",
        "lean = tl.exp(shift) * (lean + shift * total) + tl.sum(e * u, 1)",
        "lean = tl.exp(shift) * lean + tl.sum(e * u, 1)",
        "online entropy: what was summed is not moved to the new largest logit",
        "test_triton.py::test_in_the_interpreter[rows]",
    ),
]
