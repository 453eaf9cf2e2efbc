"""Tiny random models with a real tokenizer and chat template: everything but sense, in a second."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Shows tools, and writes calls, as Qwen's and Hermes' templates do.
KNOWS_TOOLS = """{% if tools %}{{ '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}{% if not loop.first %}{{ '\\n' }}{% endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
WORDS = (
    "take off to fifteen metres land now turn the lights on fly forward ten metres come back home drone camera photo "
    'name arguments altitude direction distance mode speed {"name": "takeoff_drone", "arguments": {"altitude": 15}} '
    '{"name": "reject_request", "arguments": {}} {"name": "set_drone_lighting", "arguments": {"mode": "blink"}} '
)


# What both structures have in common.
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
}


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a 2-layer Llama of about 100,000 random weights with its tokenizer into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    own = {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE, **own))
    return _save(folder, model, model.model.norm, tokenizer)


def make_other_model(folder: Path) -> Path:
    """The same in another structure: GPT-NeoX, with biases, one matrix for q, k and v, layers in parallel, untied
    embeddings, and a template that knows tools."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = _tokenizer()
    tokenizer.chat_template = KNOWS_TOOLS
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **SHAPE))
    return _save(folder, model, model.gpt_neox.final_layer_norm, tokenizer)


def _save(folder: Path, model: Any, last_norm: Any, tokenizer: Any) -> Path:
    last_norm.weight.data.fill_(5.0)  # or no answer could ever be given with confidence
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():  # type: ignore[no-untyped-def]
    """Byte-level BPE, digits one by one, as the real model has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, json.dumps(WORDS)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = TEMPLATE
    return fast


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
