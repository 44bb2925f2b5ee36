"""The numbers of a run's log, handed on to TensorBoard or Weights & Biases.

Neither is a requirement of the project: it is imported when its flag is given, and nothing is sent
anywhere without it. What wandb sends, and where, is decided by its own environment variables:
WANDB_MODE=offline keeps everything in OUT/wandb, WANDB_PROJECT names the project.
"""

import dataclasses
import importlib
import uuid

from engine.rows import BadInput

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def check(cfg):
    """Raise BadInput for a tracker that is asked for and not installed."""
    for name in MODULES:
        if getattr(cfg, name):
            module_of(name)


def module_of(name):
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise BadInput(f"--{name}: {name} is not installed (pip install {name})") from error


class Trackers:
    """The trackers of a run in the folder `out`, which has taken `start` steps."""

    def __init__(self, cfg, out, start):
        self.writer = self.run = None
        if cfg.tensorboard:
            # A killed run takes the steps after its last checkpoint again: drop the first ones.
            writer = module_of("tensorboard").SummaryWriter
            self.writer = writer(str(out / "tensorboard"), purge_step=start + 1)
        if cfg.wandb:
            self.run = start_wandb(cfg, out, start)

    def log(self, step, values):
        """Hand on the numbers of a step (1, 2, ...)."""
        numbers = {name: x for name, x in values.items() if isinstance(x, int | float)}
        if self.writer:
            for name, number in numbers.items():
                self.writer.add_scalar(name, number, step)
            self.writer.flush()
        if self.run:
            self.run.log(numbers, step=step)

    def close(self):
        if self.writer:
            self.writer.close()
        if self.run:
            self.run.finish()


def start_wandb(cfg, out, start):
    """Start a run of Weights & Biases, or continue the one of this folder. Raises BadInput."""
    path = out / "wandb.id"
    if not start or not path.is_file():
        path.write_text(uuid.uuid4().hex, encoding="utf-8")
    wandb = module_of("wandb")
    try:
        return wandb.init(
            id=path.read_text(encoding="utf-8"),
            resume="allow",
            name=out.name,
            dir=str(out),
            config=dataclasses.asdict(cfg),
        )
    except Exception as error:  # no account, no network, whatever it raises
        reason = str(error).strip().split("\n")[0]
        raise BadInput(f"--wandb: {reason} (WANDB_MODE=offline needs no account)") from error
