"""Chat templates by name, as written, and the one that most models have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.edits.merge.tokenizer.chat import TEMPLATES, choose_template, template_files, template_of
from steelyard.errors import UserError
from steelyard.weights import Checkpoint
from tiny_llama import write_tiny

TURNS = [("system", "Be kind."), ("user", "Hi "), ("assistant", "Hello."), ("user", "Bye")]

EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s> [INST] Be kind.\n\nHi  [/INST] Hello.</s> [INST] Bye [/INST]",
    "alpaca": (
        "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello.\n\n### Instruction:\nBye\n\n### Response:\n"
    ),
    "exaone": (
        "[|system|]Be kind.[|endofturn|]\n[|user|]Hi \n[|assistant|]Hello.[|endofturn|]\n[|user|]Bye\n[|assistant|]"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation(name: str) -> None:
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turns = [{"role": role, "content": content} for role, content in TURNS]
    made = environment.from_string(TEMPLATES[name]).render(
        messages=turns, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert made == EXPECTED[name]


def test_without_a_system_turn() -> None:
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turns = [{"role": "user", "content": "Hi"}]
    made = {
        name: environment.from_string(template).render(messages=turns, bos_token="<s>", eos_token="</s>")
        for name, template in TEMPLATES.items()
    }
    assert made["exaone"] == "[|system|][|endofturn|]\n[|user|]Hi\n"
    assert made["mistral"] == "<s> [INST] Hi [/INST]"
    assert made["alpaca"] == "### Instruction:\nHi"


def _folder(place: Path, settings: dict[str, object] | None, file: str | None = None) -> Checkpoint:
    write_tiny(place)
    if settings is not None:
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
    if file is not None:
        (place / "chat_template.jinja").write_text(file)
    return Checkpoint.open(place)


def test_the_one_that_most_models_have(tmp_path: Path) -> None:
    usual = "{{ messages }} as most models have it"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": usual}]
    folders = [
        _folder(tmp_path / "a", {"chat_template": "{{ another }}"}),
        _folder(tmp_path / "b", {"chat_template": named}),
        _folder(tmp_path / "c", None, usual + "\n"),
        _folder(tmp_path / "d", {"eos_token": "</s>"}),
    ]  # fmt: skip
    assert [template_of(folder) for folder in folders] == ["{{ another }}", usual, usual, None]
    assert choose_template("auto", folders) == usual
    assert choose_template("auto", folders[3:]) is None
    files = template_files(usual, folders[3], {})
    assert json.loads(files["tokenizer_config.json"]) == {"eos_token": "</s>", "chat_template": usual}
    assert files["chat_template.jinja"].decode() == usual
    for folder in folders:
        folder.close()


def test_what_is_no_template() -> None:
    with pytest.raises(UserError, match="did you mean chatml"):
        choose_template("chatlm", [])
    with pytest.raises(UserError, match="or a Jinja template"):
        choose_template("a long text without any placeholder", [])
    literal = "{% for m in messages %}{{ m }}{% endfor %}"
    assert choose_template(literal, []) == literal
