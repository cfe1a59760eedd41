"""What changes the fingerprint of features, and what does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

import featurize.data.prompt as prompt_module
from featurize.errors import CriticError
from featurize.model.families.hf import HuggingFace
from featurize.model.source import BackboneSource
from featurize.run.recipe import Recipe, make_recipe
from featurize.settings import BackboneSettings, DatasetSettings, FeaturizeSettings, PromptSettings
from tests.support.tiny_models import make_tokenizer


@pytest.fixture
def source(tmp_path: Path) -> BackboneSource:
    """A backbone of four layers of which nothing but the configuration is read."""
    LlamaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2).save_pretrained(
        tmp_path
    )
    return BackboneSource(
        family=HuggingFace(),
        folder=tmp_path,
        tokenizer_folder=tmp_path,
        weight_files=(),
        digest="weights",
        tokenizer_digest="words",
    )


def recipe_of(
    original: BackboneSource,
    *,
    source: dict | None = None,
    backbone: dict | None = None,
    dataset: dict | None = None,
    featurize: dict | None = None,
    dtype: torch.dtype = torch.float32,
    prompt: dict | None = None,
    device: str = "cpu",
) -> Recipe:
    return make_recipe(
        replace(original, **source or {}),
        BackboneSettings(**{"name": "tiny", "path": "tiny"} | (backbone or {})),
        DatasetSettings(**{"name": "data", "max_length": 400} | (dataset or {})),
        FeaturizeSettings(**{"layers": (1, 4), "poolings": ("mean", "last")} | (featurize or {})),
        dtype,
        torch.device(device),
        PromptSettings(**prompt or {}),
    )


def test_a_recipe_says_what_the_features_are(source):
    recipe = recipe_of(source, featurize={"layers": (-1, 1), "storage_dtype": "bfloat16"})
    assert recipe.spec.layers == (1, 4)
    assert recipe.spec.tensor_names == ["mean.1", "last.1", "mean.4", "last.4"]
    assert (recipe.num_layers, recipe.hidden_size) == (4, 16)
    assert (recipe.compute_dtype, recipe.storage_dtype) == (torch.float32, torch.bfloat16)
    template = recipe.fields.pop("template")
    assert template == prompt_module.template_digest()
    assert recipe.fields == {
        "backbone": {"name": "tiny", "digest": "weights", "layers": 4},
        "mtp_output": None,
        "quantization": None,
        "tokenizer": "words",
        "max_length": 400,
        "max_prompt_length": 300,
        "layers": [1, 4],
        "poolings": ["mean", "last"],
        "likelihood": False,
        "compute_dtype": "float32",
        "storage_dtype": "bfloat16",
    }


CHANGES = {
    "backbone": {"source": {"digest": "other"}},
    "tokenizer": {"source": {"tokenizer_digest": "other"}},
    "quantization": {"backbone": {"quantization": "8bit"}},
    "max_length": {"dataset": {"max_length": 401, "max_prompt_length": 300}},
    "max_prompt_length": {"dataset": {"max_prompt_length": 299}},
    "layers": {"featurize": {"layers": (1,)}},
    "poolings": {"featurize": {"poolings": ("mean",)}},
    "likelihood": {"featurize": {"likelihood": True}},
    "storage_dtype": {"featurize": {"storage_dtype": "float16"}},
    "compute_dtype": {"dtype": torch.bfloat16},
    # Only where there are any, so that the fingerprints of other stores stay.
    "segments": {"featurize": {"segments": 8}},
    "weights": {"backbone": {"weights": "random"}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_a_feature_changes_the_fingerprint(source, name):
    one, other = recipe_of(source), recipe_of(source, **CHANGES[name])
    assert one.fingerprint != other.fingerprint
    assert {key for key in other.fields if one.fields.get(key) != other.fields[key]} == {name}
    assert one.fields.keys() >= other.fields.keys() - {"segments", "weights"}


def test_only_weights_that_a_gpu_has_drawn_tell_its_features_from_a_cpus(source):
    assert recipe_of(source, device="cuda").fields == recipe_of(source).fields
    drawn = recipe_of(source, backbone={"weights": "random"})
    on_gpu = recipe_of(source, backbone={"weights": "random"}, device="cuda")
    assert on_gpu.fields == {**drawn.fields, "drawn_on": "cuda"}
    assert on_gpu.fingerprint != drawn.fingerprint


def test_another_template_changes_the_fingerprint(source, monkeypatch):
    before = recipe_of(source).fingerprint
    monkeypatch.setattr(prompt_module, "TEMPLATE", prompt_module.TEMPLATE.replace("Below", "Here"))
    assert recipe_of(source).fingerprint != before


PROMPTS = [
    {"format": "raw"},
    {"format": "jinja", "template": "{{ messages }}"},
    {"format": "jinja", "template": "{{ messages }}", "system": "a"},
    {"format": "jinja", "template": "{{ messages }}", "chat_template_kwargs": {"x": False}},
    {"format": "jinja", "template": "{{ messages }} "},
    {"end": "eos"},
    {"think": "strip"},
    {"question": "Right?"},
    {"question": "Right?", "answers": ("Y", "N")},
]


def test_every_setting_of_the_prompt_changes_the_fingerprint(source, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    found = [recipe_of(source, prompt=prompt).fingerprint for prompt in [{}, *PROMPTS]]
    assert len(set(found)) == len(found)


def test_the_tokenizers_own_template_is_part_of_the_recipe(source, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    chat = {"format": "chat"}
    with pytest.raises(CriticError, match=r"prompt\.format=jinja"):
        recipe_of(source, prompt=chat)
    found = []
    for text in ("{{ messages }}", "{{ messages }}!"):
        (tmp_path / "chat_template.jinja").write_text(text)
        found.append(recipe_of(source, prompt=chat))
    assert found[0].fingerprint != found[1].fingerprint
    assert found[0].prompt.keys() == {"format", "template"}
    assert "prompt" not in recipe_of(source).fields  # fingerprints of other stores stay


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "other", "train": "a.jsonl", "validation": ("b.jsonl",)}},
        {"dataset": {"max_prompt_length": 300}},
        {"featurize": {"segments": None}},
        {"prompt": {"answers": ("Y", "N")}},  # without a question
        {"featurize": {"layers": (4, 1)}},
        {"featurize": {"layers": (-1, 1)}},
        {"featurize": {"layers": (-4, 4)}},
        {"featurize": {"poolings": ("last", "mean")}},
        {"featurize": {"token_budget": 1, "unit_tokens": 2, "workers": 3}},
        {"featurize": {"forward": "padded", "store_name": "other"}},
        {"backbone": {"path": "elsewhere", "tokenizer_path": "there", "revision": "main"}},
        {"backbone": {"mtp_output": "trunk", "dtype": "float32"}},
    ],
)
def test_what_decides_no_feature_leaves_the_fingerprint_as_it_is(source, changes):
    assert recipe_of(source, **changes).fingerprint == recipe_of(source).fingerprint


def test_the_path_of_the_model_does_not_matter(source, tmp_path):
    LlamaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2).save_pretrained(
        tmp_path / "other"
    )
    moved = replace(source, folder=tmp_path / "other", tokenizer_folder=tmp_path / "other")
    assert recipe_of(moved) == recipe_of(source)


def test_all_layers_are_named_one_by_one(source):
    every, named = (recipe_of(source, featurize={"layers": of}) for of in ("all", (0, 1, 2, 3, 4)))
    assert every == named


def test_a_folder_without_a_configuration_is_refused(source):
    (source.folder / "config.json").unlink()
    with pytest.raises(ValueError, match="the backbone cannot be read"):
        recipe_of(source)
