"""A tuned model leaves the workspace and answers without our code as it did here."""

from __future__ import annotations

from pathlib import Path

import pytest

from drone_ft import work
from drone_ft.errors import WeightsError
from drone_ft.local import weights
from drone_ft.local.engine import Engine
from drone_ft.local.export import _modelfile, _write_gguf, export
from drone_ft.local.prompt import Settings
from drone_ft.local.shelf import UnknownModel
from drone_ft.store import Store
from tests.local.test_engine import ID, WORDS, add_adapter, ask
from tests.local.tiny import make_tiny_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("export")
    made = Engine(root / "models", weights.Source("tiny", str(make_tiny_model(root / "tiny")), "folder"))
    add_adapter(made, root / "models" / "x")
    return made


def test_plain_transformers_answers_as_here(engine: Engine, tmp_path: Path) -> None:
    import transformers

    export(ID, engine, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    here = engine.answer(ID, [ask(words, tool_choice="none", max_tokens=12) for words in WORDS])
    assert len({answer.text for answer in here}) > 1
    for words, answer in zip(WORDS, here, strict=True):
        messages = [{"role": "system", "content": "You fly."}, {"role": "user", "content": words}]
        read = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**read, max_new_tokens=12)[0, read["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == answer.text


def test_nothing_is_overwritten_and_only_tuned_models_are_exported(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(WeightsError, match="not empty"):
        export(ID, engine, tmp_path)
    with pytest.raises(WeightsError, match="is the base model"):
        export("tiny", engine, tmp_path / "new")
    with pytest.raises(UnknownModel):
        export("ft:gone", engine, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_gguf_holds_the_same_model(tmp_path: Path) -> None:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path / "tiny"))
    base = gguf.GGUFWriter(tmp_path / "base.gguf", "llama")
    config = model.config
    base.add_context_length(config.max_position_embeddings)
    base.add_embedding_length(config.hidden_size)
    base.add_block_count(config.num_hidden_layers)
    base.add_feed_forward_length(config.intermediate_size)
    base.add_head_count(config.num_attention_heads)
    base.add_head_count_kv(config.num_key_value_heads)
    base.add_layer_norm_rms_eps(config.rms_norm_eps)
    base.add_rope_freq_base(10000.0)
    base.add_rope_dimension_count(config.head_dim)
    base.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            base.add_tensor(names.get_name(name, (".weight",)), torch.zeros_like(tensor).numpy())
    base.write_header_to_file()
    base.write_kv_data_to_file()
    base.write_tensors_to_file()
    base.close()
    _write_gguf(model, tmp_path / "base.gguf", tmp_path / "model.gguf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.tensor([[1, 40, 41, 42, 43, 44]])
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, model(ids).logits, atol=0.05)


def test_ollama_reads_what_the_model_was_trained_to_read(engine: Engine) -> None:
    engine.answer("tiny", [ask("hello", tool_choice="none", max_tokens=1)])
    text = _modelfile(engine._shelf.tokenizer, Settings(ID, "tiny", "turns", "", "You fly.", calls="compact"))
    assert (
        'TEMPLATE """<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{{ .Prompt }}<|im_end|>\n'
        '<|im_start|>assistant\n{{ .Response }}<|im_end|>"""'
    ) in text


def test_an_export_from_the_app_says_why_it_failed(tmp_path: Path) -> None:
    run = work.begin_here(Store(tmp_path), "export", {"model": "ft:gone"}, lambda run: None)
    assert run.status == "failed" and run.error is not None and "There is no model 'ft:gone'" in run.error
