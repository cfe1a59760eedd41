"""Mistakes at the command line: one line that says what, where and how to mend it; exit code 2."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.command_line import Outcome, WarmCritic
from tests.support.synthetic_stores import write_store
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

FEATURIZE = ("featurize", "--split", "train")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("errors"), num_train=4, num_valid=2)


@pytest.fixture(scope="module")
def head(critic: WarmCritic, project: Path) -> Path:
    """A head trained on random features; the folder of its run."""
    for split in ("train", "valid"):
        write_store(project / f"storage/features/demo/{split}")
    outcome = critic.run("train-head", *options("training.n_epochs=1"), folder=project)
    assert outcome.code == 0, outcome.err
    return project / "storage/checkpoints/critic/demo"


@pytest.fixture
def run(critic: WarmCritic, project: Path, tmp_path: Path) -> Any:
    """Runs a command whose storage.root is tmp_path/storage."""

    def run(
        *command: str, most_bytes: int | None = None, settings: tuple[str, ...] = ()
    ) -> Outcome:
        arguments = [*command, *options(f"storage.root={tmp_path}/storage", *settings)]
        return critic.run(*arguments, folder=project, most_bytes=most_bytes)

    return run


def assert_refused(outcome: Outcome, storage: Path, *parts: str) -> None:
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert outcome.code == 2
    assert "Traceback" not in outcome.out
    assert [*storage.rglob("*.partial")] == []
    assert [*storage.rglob("manifest.json")] == []


def copy_model(project: Path, folder: Path) -> Path:
    return Path(shutil.copytree(project / "model", folder))


# --- the dataset


GOOD, OTHER = make_rows("train", 1)[:2]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"instruction": oops', ("'{\"instruction\": oops'", "JSON object")),
        ({**OTHER, "is_correct": "yes"}, ("'is_correct' is 'yes' (a string)", "true")),
        (
            {**OTHER, "task_id": GOOD["task_id"]},
            ("'train-0-0'", "data.jsonl:1", "its own"),
        ),
    ],
    ids=["json", "label", "task-id"],
)
def test_a_bad_row_is_named_by_file_and_line(
    run: Any, tmp_path: Path, line: Any, parts: tuple[str, ...]
) -> None:
    data = tmp_path / "data.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    data.write_text(f"{json.dumps(GOOD)}\n{text}\n")
    outcome = run(*FEATURIZE, settings=(f"dataset.train={data}",))
    assert_refused(outcome, tmp_path, f"{data}:2", *parts)
    assert not (tmp_path / "storage/features").exists()


# --- the settings


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("featurize.layer=[1]", ("featurize.layer=[1]: ", "featurize.layers?")),
        ("featurize.layers=[9]", ("featurize.layers: 9", "0..3")),
        ("dataset.train=nowhere.jsonl", ("'nowhere.jsonl'", "now in '")),
        ("models.policy.path=nowhere", ("models.policy.path", "'nowhere'", ".gguf")),
    ],
)
def test_a_bad_setting_is_named_with_what_to_use(
    run: Any, tmp_path: Path, setting: str, parts: tuple[str, ...]
) -> None:
    assert_refused(run(*FEATURIZE, settings=(setting,)), tmp_path, *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [FEATURIZE, ("train-head",)])
def test_cuda_is_refused_where_there_is_none(
    run: Any, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if command != FEATURIZE:
        for split in ("train", "valid"):
            write_store(tmp_path / f"storage/features/demo/{split}")
    outcome = run(*command, settings=("runtime.device=cuda",))
    assert_refused(outcome, tmp_path / "storage/checkpoints", "'cuda'", "runtime.device=auto")


# --- the backbone


@pytest.mark.parametrize("likelihood", ["true", "false"])
def test_a_weight_that_is_nan_is_reported_by_the_first_sample_it_affects(
    run: Any, project: Path, tmp_path: Path, likelihood: str
) -> None:
    model = copy_model(project, tmp_path / "nan")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    settings = (f"models.policy.path={model}", f"featurize.likelihood={likelihood}")
    outcome = run(*FEATURIZE, settings=settings)
    # Layer 1 lies below the damage, layer 3 above it.
    assert_refused(outcome, tmp_path, "NaN or inf in", ".3 of sample 'train-", "such rows")


def test_a_failed_first_run_does_not_block_the_next(
    run: Any, project: Path, tmp_path: Path
) -> None:
    model = copy_model(project, tmp_path / "mended")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:1000])
    settings = (f"models.policy.path={model}",)
    assert run(*FEATURIZE, settings=settings).code == 2
    (model / "model.safetensors").write_bytes(whole)
    outcome = run(*FEATURIZE, settings=settings)
    assert outcome.code == 0, outcome.err


# --- features and heads


@pytest.mark.parametrize("command", ["train-head", "eval"])
def test_missing_features_are_reported_with_the_command_that_makes_them(
    run: Any, head: Path, tmp_path: Path, command: str
) -> None:
    arguments = (command, "--head", str(head)) if command == "eval" else (command,)
    outcome = run(*arguments)
    features = tmp_path / "storage/features/demo"
    assert_refused(outcome, features, str(features), "`critic featurize --split train`")


def test_a_missing_head_is_reported_with_the_command_that_makes_it(
    run: Any, tmp_path: Path
) -> None:
    outcome = run("eval")
    assert_refused(outcome, tmp_path, "critic/demo: ", "`critic train-head`")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_needs_problems_with_both_labels(run: Any, tmp_path: Path, split: str) -> None:
    for name in ("train", "valid"):
        labels = [True] * 96 if name == split else None
        write_store(tmp_path / f"storage/features/demo/{name}", labels=labels)
    outcome = run("train-head")
    expected = "both a correct and an incorrect"
    assert_refused(outcome, tmp_path / "storage/checkpoints", expected)
    heads = [*(tmp_path / "storage").rglob("head.json")]
    assert heads == []


def test_an_evaluation_needs_problems_with_both_labels(
    run: Any, head: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "storage/features/demo/train")
    one_label_a_problem = [bool(place // 8 % 2) for place in range(96)]
    write_store(tmp_path / "storage/features/demo/valid", labels=one_label_a_problem)
    outcome = run("eval", "--head", str(head))
    evaluation = tmp_path / "storage/evaluation"
    assert_refused(outcome, evaluation, "'valid'", "both a correct and an incorrect")
    assert not evaluation.exists()


def test_a_head_refuses_features_of_another_recipe(run: Any, head: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_store(tmp_path / f"storage/features/new/{split}", recipe_fingerprint="new")
    outcome = run("eval", "--head", str(head), settings=("featurize.store_name=new",))
    parts = (str(head), "recipe recipe", "recipe new", "train a new head")
    assert_refused(outcome, tmp_path / "storage/evaluation", *parts)


def test_features_of_another_recipe_are_not_overwritten_unasked(run: Any, tmp_path: Path) -> None:
    assert run(*FEATURIZE).code == 0
    store = tmp_path / "storage/features/demo/train"
    before = (store / "manifest.json").read_bytes()
    changed = ("featurize.poolings=[last]",)
    outcome = run(*FEATURIZE, settings=changed)
    parts = (str(store), "another poolings", "experiment.name", "--overwrite")
    assert_refused(outcome, tmp_path / "storage/checkpoints", *parts)
    assert (store / "manifest.json").read_bytes() == before
    assert run(*FEATURIZE, "--overwrite", settings=changed).code == 0
    assert (store / "manifest.json").read_bytes() != before


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval",),
        ("show",),
        ("score", "valid.jsonl", "--out", "scored.jsonl"),
        ("export", "--out", "exported"),
        ("push", "user/name"),
        ("serve",),
    ],
)
def test_an_empty_path_of_a_head_is_not_taken_for_none(
    critic: WarmCritic, project: Path, arguments: tuple[str, ...]
) -> None:
    outcome = critic.run(*arguments, "--head", "", folder=project)
    assert outcome.code == 2
    assert outcome.err.startswith("error: the path of a head is ''; name its folder, or")
    assert len(outcome.err.splitlines()) == 1


def test_an_empty_host_is_not_taken_for_every_address(critic: WarmCritic, project: Path) -> None:
    outcome = critic.run("serve", "--head", "head", "--host", "", folder=project)
    assert outcome.code == 2
    assert outcome.err.startswith("error: --host '' ")
    assert "0.0.0.0" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("audit", "--prompts", "1", "--strict"), ("--prompts", "--strict", "leave")),
        (("export", "--out", "out", "--register", "judge"), ("--register 'judge'", "--to mlflow")),
        (("export", "--out", "out", "--to", "mlflow", "--custom"), ("--custom", "transformers")),
        (
            ("export", "--out", "out", "--to", "mlflow", "--register", ""),
            ("--register ''", "give a name"),
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    run: Any, project: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_refused(run(*arguments), tmp_path, *parts)
    assert not (project / "out").exists()


# --- a full disk


@pytest.mark.parametrize(
    ("most_bytes", "file"), [(1000, "cache/index"), (4000, "00000.safetensors")]
)
def test_featurize_on_a_full_disk_leaves_nothing_half_written(
    run: Any, tmp_path: Path, most_bytes: int, file: str
) -> None:
    if file != "cache/index":
        assert run(*FEATURIZE, "--plan-only").code == 0
    outcome = run(*FEATURIZE, most_bytes=most_bytes)
    assert_refused(outcome, tmp_path, "File too large", file, "make room")
    assert run(*FEATURIZE).code == 0


def test_training_and_evaluation_on_a_full_disk_are_one_line(run: Any, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_store(tmp_path / f"storage/features/demo/{split}")
    checkpoints, evaluation = tmp_path / "storage/checkpoints", tmp_path / "storage/evaluation"
    assert_refused(run("train-head", most_bytes=3000), checkpoints, "mlflow.tracking_uri", "disk")
    shutil.rmtree(tmp_path / "storage/mlruns")
    assert run("train-head").code == 0
    assert_refused(run("eval", most_bytes=3000), evaluation, "File too large", "valid.json", "room")
    assert [path for path in evaluation.rglob("*") if path.is_file()] == []


# --- how errors are told


def test_an_error_of_several_workers_is_reported_once(
    run: Any, project: Path, tmp_path: Path
) -> None:
    model = copy_model(project, tmp_path / "damaged")
    (model / "model.safetensors").write_bytes(b"not safetensors")
    settings = ("featurize.workers=2", "featurize.unit_tokens=50", f"models.policy.path={model}")
    outcome = run(*FEATURIZE, settings=settings)
    assert_refused(outcome, tmp_path, str(model), "cannot be read")


def test_debug_shows_the_traceback(run: Any) -> None:
    arguments = ("eval", "--head", "nowhere")
    assert "Traceback" not in run(*arguments).err
    err = run(*arguments, "--debug").err
    assert err.startswith("Traceback")
    assert "headtrain/head/checkpoint.py" in err
    assert "CheckpointError: nowhere: " in err
