"""The chat template of a result: one of the models', a known one by name, or as written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from steelyard.edits.catalogue import suggest
from steelyard.errors import UserError
from steelyard.measure.tokenizer import Folder

TEMPLATE_FILE = "chat_template.jinja"
_SETTINGS_FILE = "tokenizer_config.json"
_SHORTEST = 20

# Turns are written without line breaks of the template's own: `-%}` and `{%-` swallow them.
TEMPLATES: Mapping[str, str] = {
    "chatml": (
        "{%- for turn in messages %}"
        "{{- '<|im_start|>' ~ turn['role'] ~ '\\n' ~ turn['content'] ~ '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "llama3": (
        "{{- bos_token }}"
        "{%- for turn in messages %}"
        "{{- '<|start_header_id|>' ~ turn['role'] ~ '<|end_header_id|>\\n\\n' }}"
        "{{- turn['content'] | trim ~ '<|eot_id|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
        "{%- endif %}"
    ),
    "mistral": (
        "{%- set opening = '' %}{%- set turns = messages %}"
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set opening = messages[0]['content'] ~ '\\n\\n' %}{%- set turns = messages[1:] %}"
        "{%- endif %}"
        "{{- bos_token }}"
        "{%- for turn in turns %}"
        "{%- if turn['role'] != ('user', 'assistant')[loop.index0 % 2] %}"
        "{{- raise_exception('turns of user and assistant must follow each other, beginning with the user') }}"
        "{%- endif %}"
        "{%- if turn['role'] == 'user' %}"
        "{{- ' [INST] ' ~ (opening if loop.first else '') ~ turn['content'] ~ ' [/INST]' }}"
        "{%- else %}{{- ' ' ~ turn['content'] ~ eos_token }}{%- endif %}"
        "{%- endfor %}"
    ),
    "alpaca": (
        "{%- set titles = {'user': 'Instruction', 'user_context': 'Input', 'assistant': 'Response'} %}"
        "{%- for turn in messages %}"
        "{%- if turn['role'] in titles %}{{- '### ' ~ titles[turn['role']] ~ ':\\n' }}{%- endif %}"
        "{{- turn['content'] | trim }}"
        "{%- if not loop.last or add_generation_prompt %}{{- '\\n\\n' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
        "{{- '### Response:\\n' }}"
        "{%- endif %}"
    ),
    "exaone": (
        "{%- if messages[0]['role'] != 'system' %}{{- '[|system|][|endofturn|]\\n' }}{%- endif %}"
        "{%- for turn in messages %}"
        "{{- '[|' ~ turn['role'] ~ '|]' ~ turn['content'] }}"
        "{{- '\\n' if turn['role'] == 'user' else '[|endofturn|]\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '[|assistant|]' }}{%- endif %}"
    ),
}
"""Templates by the names that mergekit has for them."""


def choose_template(declared: str, folders: Iterable[Folder]) -> str | None:
    """Return the template that a recipe declares; None where `auto` finds none.

    Args:
        declared: "auto" for the one that most models have, a name, or the template itself.
        folders: the models' files.

    Raises:
        UserError: if it is neither.
    """
    if declared == "auto":
        held = [template for template in map(template_of, folders) if template]
        return Counter(held).most_common(1)[0][0] if held else None
    if declared in TEMPLATES:
        return TEMPLATES[declared]
    if len(declared) < _SHORTEST or "{" not in declared:
        raise UserError(f"chat_template: {suggest(declared, ['auto', *TEMPLATES])}, or a Jinja template")
    return declared


def template_of(folder: Folder) -> str | None:
    """Return the chat template of a model, None if it has none."""
    if folder.has_other(TEMPLATE_FILE):
        return folder.read_other(TEMPLATE_FILE).decode().strip()
    template = _settings(folder).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    return template.strip() if isinstance(template, str) else None


def template_files(template: str, folder: Folder, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that give a result its template.

    Args:
        template: the template.
        folder: whose settings of the tokenizer go along.
        files: those that replace some of them.
    """
    settings = json.loads(files[_SETTINGS_FILE]) if _SETTINGS_FILE in files else _settings(folder)
    settings["chat_template"] = template
    data = (json.dumps(settings, ensure_ascii=False, indent=2) + "\n").encode()
    return {TEMPLATE_FILE: template.encode(), _SETTINGS_FILE: data}


def _settings(folder: Folder) -> dict[str, Any]:
    if not folder.has_other(_SETTINGS_FILE):
        return {}
    try:
        settings = json.loads(folder.read_other(_SETTINGS_FILE))
    except ValueError:
        raise UserError(f"{folder.location}/{_SETTINGS_FILE} is not valid JSON; download it again") from None
    return settings if isinstance(settings, dict) else {}
