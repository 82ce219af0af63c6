"""Shared fixtures: tiny random models of every supported architecture, one thread, and the markers' reasons."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from traitline.models.loading import Model, wrap

VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
LONG = (
    "test_report_browser",
    "test_study_run",
    "test_judge_server",
    "test_published_reproduce",
    "test_judge_local",
    "test_judge_distilled",
    "test_judge_batch",
    "test_judge_facets",
    "test_study_judging",
    "test_cli_judges",
)
"""The files that take longest, which workers begin with, so that at the end none is left alone with one of them."""
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 6}),
    "apertus": ("ApertusConfig", {}),
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6}),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "gpt2": ("GPT2Config", {}),
    "smollm3": ("SmolLM3Config", {}),
}


def tiny_network(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """Return a random network of 3 blocks x 32, in float32."""
    import transformers

    name, extra = ARCHITECTURES[architecture]
    sizes = {k: v for k, v in {**SIZES, **extra, **changes}.items() if v is not None}
    if architecture == "gpt2":
        sizes = {
            "vocab_size": sizes["vocab_size"],
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.2,
            **{k: sizes[k] for k in ("pad_token_id", "bos_token_id", "eos_token_id")},
        }
    config = getattr(transformers, name)(**sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def tiny_tokenizer() -> Any:
    """Return a word-level tokenizer of the words w3..w63, which puts <bos> in front of a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>"] + [f"w{i}" for i in range(3, VOCABULARY)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w3"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def tiny_model(architecture: str, seed: int = 0, **changes: Any) -> Model:
    """Return a random tiny model with its tokenizer."""
    return wrap(tiny_network(architecture, seed, **changes), tiny_tokenizer(), source=f"tiny {architecture}")


@pytest.fixture(scope="session", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Model:
    """A tiny random model of each supported architecture in turn."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama() -> Model:
    """A tiny random Llama, where the architecture does not matter."""
    return tiny_model("llama")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def light_figures() -> Iterator[None]:
    """Write figures as PNG alone, where a test is about something else: the fonts of the PDFs take half of a report's time."""
    from traitline.report import style

    with pytest.MonkeyPatch.context() as formats:
        formats.setattr(style, "FORMATS", ("png",))
        yield


@pytest.fixture(scope="session")
def published() -> Path:
    """The published release's folder beside the checkout."""
    path = Path(__file__).parents[2] / "shared" / "published"
    if not path.is_dir():
        pytest.skip("the published release does not lie beside the checkout")
    return path


@pytest.fixture(scope="session")
def published_release(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's release, unpacked once."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(published / "release-olmo3.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: give --run-slow"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))
