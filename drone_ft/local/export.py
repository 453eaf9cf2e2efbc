"""A tuned model out into the world: a folder that plain transformers loads, and a GGUF with a Modelfile for Ollama."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from drone_ft.errors import WeightsError
from drone_ft.local.engine import Engine
from drone_ft.local.prompt import Settings, around, opening_of

GGUF, MODELFILE = "model.gguf", "Modelfile"
_ONLY_TURNS = "{%- set messages = OPENING + (messages | rejectattr('role', 'equalto', 'system') | list) -%}"


def export(model_id: str, engine: Engine, out: Path) -> list[Path]:
    """Write a tuned model into the new folder `out`; the files written. Raises UnknownModel, WeightsError, OSError.

    The weights are whole (float32, safetensors) and the chat template shows the model what it was trained to read, so
    `AutoModelForCausalLM.from_pretrained(out)` answers as here, where no grammar changes an answer. A Llama whose base
    came as GGUF is also written as GGUF (float16), with an Ollama Modelfile.
    """
    if out.exists() and any(out.iterdir()):
        raise WeightsError(f"The folder {out} is not empty. Name a new one for the exported model.")
    if model_id == engine.source.name:
        raise WeightsError(f"{model_id} is the base model, and only tuned ones are exported. Name one, ft:…")
    settings = engine.settings(model_id)
    if settings.form == "full":
        raise WeightsError(
            f"{model_id} was trained on several system prompts or lists of functions, which no single chat template "
            "can show it. Train on rows that share them, then export."
        )
    model, tokenizer = engine.whole(model_id)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".exporting-", dir=out.parent))
    try:
        _write_folder(model, tokenizer, settings, made)
        if engine.source.kind == "gguf" and model.config.model_type == "llama":
            _write_gguf(model, Path(engine.source.location), made / GGUF)
            (made / MODELFILE).write_text(_modelfile(tokenizer, settings), "utf-8")
        if out.exists():
            out.rmdir()
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return sorted(path for path in out.iterdir())


def _write_folder(model: Any, tokenizer: Any, settings: Settings, folder: Path) -> None:
    from transformers import GenerationConfig

    known = model.generation_config  # without a base's settings for sampling: it was trained for one right answer
    ends = {key: getattr(known, f"{key}_token_id") for key in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**{f"{key}_token_id": value for key, value in ends.items()})
    model.save_pretrained(folder)
    own = tokenizer.chat_template
    opening = json.dumps(opening_of(tokenizer, settings), ensure_ascii=False)
    tokenizer.chat_template = _ONLY_TURNS.replace("OPENING", opening) + own
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = own


def _modelfile(tokenizer: Any, settings: Settings) -> str:
    """Ollama's recipe: the template around one request, found by rendering one."""
    before, after = around(tokenizer, settings)
    end = tokenizer.eos_token
    return (
        f'FROM ./{GGUF}\nTEMPLATE """{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{end}"""\n'
        f'PARAMETER temperature 0\nPARAMETER stop "{end}"\n'
    )


def _write_gguf(model: Any, source: Path, path: Path) -> None:
    """The base's own GGUF with the tuned weights in place of its own, so that all it says of itself stays true."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, architecture)
    skipped = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type")
    for name, field in reader.fields.items():
        if name not in skipped:
            kind = field.types[0]
            part = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=part)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {names.get_name(name, (".weight",)): (name, tensor) for name, tensor in model.state_dict().items()}
    for tensor in reader.tensors:
        if tensor.name not in found:  # such as rope_freqs: never learnt
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        name, values = found[tensor.name]
        array = values.float().cpu().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                array = _paired(array, heads)
        writer.add_tensor(tensor.name, array if array.ndim == 1 else array.astype("float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _paired(array: Any, heads: int) -> Any:
    """Rows of a query or key matrix in llama.cpp's order, which turns neighbours, not halves."""
    rows = array.shape[0]
    return array.reshape(heads, 2, rows // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
