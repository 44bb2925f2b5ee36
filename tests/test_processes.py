"""engine/processes.py: the part of the work that a rank has, sums over the parts, long waits."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import ranks_run

from engine import processes
from engine.rows import BadInput


def test_join():
    """4 processes, --tp 2: ranks 0 and 1 share a model and half of the rows, 2 and 3 the others.

    A sum counts each half once. Without --tp each process has a part of its own.
    """

    def work():
        two, one = processes.join_ranks(tp=2), processes.join_ranks()
        shown = [
            (
                r.device,
                r.index,
                r.n,
                r.leads,
                r.writes,
                r.group and dist.get_process_group_ranks(r.group),
            )
            for r in (two, one)
        ]
        return (
            shown,
            processes.sum_over_ranks(10 * two.index + 1, two),
            processes.sum_over_ranks(dist.get_rank(), one),
        )

    answers = ranks_run(work, n=4)
    assert [shown[0] for shown, *_ in answers] == [
        ("cpu", 0, 2, True, True, [0, 1]),
        ("cpu", 0, 2, False, False, [0, 1]),
        ("cpu", 1, 2, False, True, [2, 3]),
        ("cpu", 1, 2, False, False, [2, 3]),
    ]
    assert [shown[1] for shown, *_ in answers] == [
        ("cpu", i, 4, i == 0, True, None) for i in range(4)
    ]
    assert [totals for _, *totals in answers] == [[12, 6]] * 4


def test_ranks_wait_for_one_another_as_long_as_it_takes():
    """One rank may have the long texts: the others wait for hours at the end of a run.

    torch's defaults end the run after 30 minutes, with NCCL after 10.
    """

    def work():
        group = processes.join_ranks(tp=2).group
        dist.barrier()  # the first rank, which keeps the addresses, goes last
        return [
            g._get_backend(torch.device("cpu")).options._timeout for g in (dist.group.WORLD, group)
        ]

    for timeouts in ranks_run(work):
        assert min(timeouts) >= timedelta(days=1)


def test_tp_that_does_not_divide_the_processes_is_refused():
    def work():
        processes.join_ranks(tp=3)

    line = "--tp 3: does not divide 2 processes (torchrun --nproc-per-node)"
    assert [(type(answer), str(answer)) for answer in ranks_run(work)] == [(BadInput, line)] * 2


def test_tp_of_one_process_is_refused():
    with pytest.raises(BadInput, match=r"^--tp 2: does not divide 1 process \(torchrun"):
        processes.join_ranks(tp=2)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "cpu:1", "xla"])
def test_a_device_that_there_is_not(name):
    with pytest.raises(BadInput, match=f"^--device {name}: ") as caught:
        processes.join_ranks(name)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_here(monkeypatch):
    """--device cuda without CUDA, or with fewer GPUs than its number asks for."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="^--device cuda: torch finds no such device here"):
        processes.join_ranks("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.join_ranks("cuda:1").device == "cuda:1"
    with pytest.raises(BadInput, match="^--device cuda:2: torch finds no such device"):
        processes.join_ranks("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadInput, match="^--device mps: torch finds no such device"):
        processes.join_ranks("mps")
