"""A tuned model leaves the workspace and answers without our code as it did here."""

from __future__ import annotations

from pathlib import Path

import pytest

from drone_ft.errors import WeightsError
from drone_ft.local import weights
from drone_ft.local.engine import Engine, UnknownModel
from drone_ft.local.export import export
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
    with pytest.raises(UnknownModel):
        export("tiny", engine, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
