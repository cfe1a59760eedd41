"""A critic in Python gives the values of a store, whatever other outputs are scored with it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurize.errors import CriticError
from featurize.settings import BackboneSettings
from headtrain.head.checkpoint import CheckpointError, load_head
from headtrain.scoring.critic import Critic
from headtrain.scoring.provenance import Provenance
from headtrain.scoring.scorer import Scorer
from headtrain.training.validation import keep_distance
from tests.support.processes import REPOSITORY, run_python
from tests.support.scored_projects import ScoredProject, make_project
from tests.support.tiny_models import write_tiny_llama

TOLERANCE = 1e-5
"""Of the largest value of the problem, as docs/scoring.md states for features of 32 bits: a value
near 0 is a difference of larger terms."""


def near(values: Iterable[float]) -> Any:
    values = list(values)
    return pytest.approx(values, rel=0, abs=TOLERANCE * max(map(abs, values)))


def assert_values_are_those_of_the_store(critic: Critic, project: ScoredProject) -> None:
    values = load_head(project.head).score(project.store)
    assert np.std(values) > 0.01  # or anything would be equal
    task_ids = project.store.samples["task_id"].to_pylist()
    expected = dict(zip(task_ids, values.tolist(), strict=True))
    for problem in {row["problem_id"] for row in project.rows}:
        prompt, outputs = outputs_of(project, problem)
        found = critic.score(prompt, list(outputs.values()))
        assert found == near([expected[name] for name in outputs])


def outputs_of(project: ScoredProject, problem: str) -> tuple[str, dict[str, str]]:
    rows = [row for row in project.rows if row["problem_id"] == problem]
    return rows[0]["instruction"], {row["task_id"]: row["output"] for row in rows}


def test_values_are_those_of_the_store(project: ScoredProject, critic: Critic) -> None:
    assert_values_are_those_of_the_store(critic, project)


def test_values_do_not_depend_on_order_other_outputs_or_repeats(
    project: ScoredProject, critic: Critic
) -> None:
    prompt, outputs = outputs_of(project, "train-0")
    texts = list(dict.fromkeys(outputs.values()))
    together = dict(zip(texts, critic.score(prompt, texts), strict=True))
    backwards = dict(zip(texts[::-1], critic.score(prompt, texts[::-1]), strict=True))
    crowd = [*texts, *texts, "x = 1\n" * 60]
    alone = [critic.score(prompt, [text])[0] for text in texts]
    assert alone == near(together.values())
    assert [backwards[text] for text in texts] == near(together.values())
    scored = critic.score(prompt, crowd)
    assert scored[: len(texts)] == scored[len(texts) : 2 * len(texts)]
    assert scored[: len(texts)] == near(together.values())


@pytest.mark.parametrize("kind", ["gated", "attention"])
def test_a_head_on_segments_scores_texts_as_it_scores_the_store(tmp_path: Path, kind: str) -> None:
    project = make_project(
        tmp_path,
        "featurize.segments=3",
        "featurize.likelihood=false",
        tensors=["segments.1", "segments.3", "segment_tokens"],
        spec={"head_type": kind, "segment_value": "mlp", "head_width": 4},
    )
    critic = Critic.load(project.head, device="cpu", cache_dir=tmp_path / "cache")
    head = load_head(project.head)
    ids = project.store.samples["task_id"].to_pylist()
    values = dict(zip(ids, head.score(project.store).tolist(), strict=True))
    assert len(set(values.values())) > 3
    prompt, outputs = outputs_of(project, "train-0")
    expected = [values[task_id] for task_id in outputs]
    assert critic.score(prompt, list(outputs.values())) == near(expected)
    along = critic.values_along(prompt, next(iter(outputs.values())), by=3)
    assert list(along.values[-1:]) == near(expected[:1])


LIMIT = 160
ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 3.0, 6.0, 9.0],
        "original_max_position_embeddings": LIMIT,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}


@pytest.mark.parametrize("rope", ROPES)
def test_values_do_not_depend_on_longer_outputs_where_positions_do(
    tmp_path: Path, rope: str
) -> None:
    model = write_tiny_llama(
        tmp_path / "long",
        max_position_embeddings=LIMIT,
        rope_parameters={**ROPES[rope], "rope_theta": 10000.0},
    )
    project = make_project(tmp_path, f"models.policy.path={model}")
    critic = Critic.load(project.head, device="cpu", cache_dir=tmp_path / "cache")
    prompt = "Add two numbers."
    short, long = "print(a + b)", "x = a + b\n" * 15
    samples = critic.samples.encode(prompt, [short, long])
    lengths = [len(sample.output) for sample in samples]
    start = len(samples[0].prompt)
    assert start + lengths[0] < LIMIT < start + lengths[1]
    alone = [critic.score(prompt, [text])[0] for text in (short, long)]
    together = critic.score(prompt, [long, short, long])
    assert together == near([alone[1], alone[0], alone[1]])
    assert critic.score(prompt, [short])[0] == alone[0]  # a longer call leaves no trace


@pytest.mark.parametrize(("name", "value"), [("token_budget", 200), ("forward", "padded")])
def test_values_do_not_depend_on_how_the_forward_is_batched(
    project: ScoredProject, critic: Critic, tmp_path: Path, name: str, value: int | str
) -> None:
    other = rewritten_head(project.head, tmp_path, ("featurize", name), value)
    prompt, outputs = outputs_of(project, "train-1")
    texts = list(outputs.values())
    found = Critic.load(other, device="cpu").score(prompt, texts)
    assert found == near(critic.score(prompt, texts))


def test_features_are_rounded_as_a_store_rounds_them(
    project: ScoredProject, critic: Critic, tmp_path: Path
) -> None:
    narrow = make_project(
        tmp_path,
        "featurize.storage_dtype=bfloat16",
        "featurize.likelihood=true",
        tensors=["mean.3"],
    )
    rounded = Critic.load(narrow.head, device="cpu")
    assert_values_are_those_of_the_store(rounded, narrow)
    prompt, outputs = outputs_of(narrow, "train-2")
    found = rounded.score(prompt, list(outputs.values()))
    rounded._storage_dtype = critic._storage_dtype  # 32 bits: what no store of it holds
    unrounded = np.array(rounded.score(prompt, list(outputs.values())))
    assert np.abs(unrounded / np.array(found) - 1).max() > 10 * TOLERANCE


def test_only_the_layers_a_head_reads_are_run(tmp_path: Path) -> None:
    project = make_project(tmp_path, "featurize.likelihood=false", tensors=["last.1"])
    critic = Critic.load(project.head, device="cpu")
    assert len(critic._engine.backbone.blocks) == 1
    assert_values_are_those_of_the_store(critic, project)


def test_a_verdict_has_the_calibrated_probability_and_an_ensembles_spread(
    project: ScoredProject, critic: Critic
) -> None:
    prompt, outputs = outputs_of(project, "train-1")
    texts = list(outputs.values())
    verdicts = critic.judge(prompt, texts)
    for verdict, value in zip(verdicts, critic.score(prompt, texts), strict=True):
        assert verdict.value == value
        assert verdict.probability == pytest.approx(1 / (1 + math.exp(-(2 * value + 0.5))))
        assert verdict.spread is not None
        assert verdict.spread > 0


def test_a_verdict_has_the_distance_to_train_if_the_head_keeps_it(
    project: ScoredProject, critic: Critic, tmp_path: Path
) -> None:
    prompt, outputs = outputs_of(project, "train-1")
    texts = list(outputs.values())
    assert {verdict.distance for verdict in critic.judge(prompt, texts)} == {None}
    head = rewritten_head(project.head, tmp_path, ("folder",), "")
    keep_distance(head, project.store)
    distances = Scorer(load_head(head), has_distance=True).score_store(project.store).distances
    assert distances is not None
    expected = dict(zip(project.store.samples["task_id"].to_pylist(), distances, strict=True))
    found = [v.distance for v in Critic.load(head, device="cpu").judge(prompt, texts)]
    assert found == pytest.approx([expected[task_id] for task_id in outputs], abs=1e-5)
    assert len(set(found)) > 1


def test_a_single_head_has_no_spread_and_a_head_without_calibration_no_probability(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path, fitted=None)
    critic = Critic.load(project.head, device="cpu")
    [verdict] = critic.judge("Add.", ["return 1"])
    assert verdict.spread is None
    bare = Critic.load(rewritten_head(project.head, tmp_path / "bare", ("fitted",), None))
    assert bare.score("Add.", ["return 1"]) == [verdict.value]
    with pytest.raises(CheckpointError, match=r"no calibration .*critic train-head"):
        bare.judge("Add.", ["return 1"])


def test_an_input_is_part_of_the_prompt(critic: Critic) -> None:
    [without], [with_input] = critic.score("Add.", ["x"]), critic.score("Add.", ["x"], input="1 2")
    assert without != pytest.approx(with_input, rel=1e-3)


def test_no_outputs_give_no_values(critic: Critic) -> None:
    assert critic.score("Add.", []) == []
    assert critic.judge("Add.", []) == []


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (["x", ""], r"'outputs\[1\]' is empty"),
        ([" \n"], r"'outputs\[0\]' is empty"),
        (["\ud800"], "surrogate"),
        ("x = 1", "give a list"),
    ],
)
def test_outputs_unfit_for_featurize_are_refused(critic: Critic, outputs: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        critic.score("Add.", outputs)


def test_a_long_output_is_cut_as_a_store_cuts_it(critic: Critic) -> None:
    long = "x = 1\n" * 400
    assert critic.score("Add.", [long]) == critic.score("Add.", [long + "y"])


@pytest.mark.parametrize("name", ["backbone", "tokenizer"])
def test_an_empty_path_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(CriticError, match=f"^the {name} is ''; name a folder"):
        Critic.load(tmp_path, **{name: ""})  # type: ignore[arg-type]


def test_another_backbone_is_refused_and_a_moved_one_found(
    project: ScoredProject, tmp_path: Path
) -> None:
    other = write_tiny_llama(tmp_path / "other", adds_bos=True, seed=1)
    with pytest.raises(CheckpointError, match="other weights"):
        Critic.load(project.head, backbone=str(other))
    moved = write_tiny_llama(tmp_path / "moved", adds_bos=True)
    gone = rewritten_head(project.head, tmp_path / "h", ("models", "policy", "path"), "/gone/model")
    with pytest.raises(ValueError, match="/gone/model"):
        Critic.load(gone, cache_dir=tmp_path)
    assert Critic.load(gone, backbone=str(moved)).score("Add.", ["x"])


def test_a_moved_backbone_leaves_the_recorded_tokenizer_behind(
    project: ScoredProject, tmp_path: Path
) -> None:
    keys = ("models", "policy", "tokenizer_path")
    head = rewritten_head(project.head, tmp_path / "h", keys, "/gone/tokenizer")
    with pytest.raises(ValueError, match="/gone/tokenizer"):
        Critic.load(head)
    values = [
        Critic.load(head, backbone=backbone, tokenizer=tokenizer).score("Add.", ["x"])
        for backbone, tokenizer in (
            (str(project.model), None),
            (str(project.model), str(project.model)),
            (None, str(project.model)),
        )
    ]
    assert values[0] == values[1] == values[2]
    with pytest.raises(ValueError, match="/none/here"):
        Critic.load(head, backbone=str(project.model), tokenizer="/none/here")


def test_an_automatic_number_format_is_that_of_the_heads_features(
    project: ScoredProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained on a machine without fast bfloat16, used on one that has it."""
    monkeypatch.setattr("featurize.model.device.has_fast_bfloat16", lambda _device: True)
    head = rewritten_head(project.head, tmp_path, ("models", "policy", "dtype"), "auto")
    found = Provenance.of(load_head(head)).find(Critic.load(head).head.device, tmp_path)
    assert found.settings.dtype == "float32"


def test_a_head_cannot_allow_the_code_of_a_model_to_run(
    project: ScoredProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    keys = ("models", "policy", "trust_remote_code")
    head = rewritten_head(project.head, tmp_path, keys, True)

    def find(settings: BackboneSettings, *_: object) -> None:
        seen.append(settings.trust_remote_code)
        raise ZeroDivisionError

    monkeypatch.setattr("headtrain.scoring.provenance.find_backbone", find)
    for allowed in (False, True):
        with pytest.raises(ZeroDivisionError):
            Critic.load(head, trust_remote_code=allowed)
    assert seen == [False, True]


@pytest.mark.slow
def test_it_works_in_a_folder_with_a_cli_and_configs_of_its_own(
    project: ScoredProject, tmp_path: Path
) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("configs/__init__.py", "cli.py"):
        (tmp_path / name).write_text(f"raise AssertionError('{name} is imported')")
    code = (
        "import sys; from headtrain.scoring.critic import Critic\n"
        f"print(Critic.load({str(project.head)!r}, device='cpu').score('Add.', ['x']))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('configs', 'cli')])"
    )
    done = run_python("-c", code, folder=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    values, modules = done.stdout.splitlines()
    assert json.loads(values) == Critic.load(project.head, device="cpu").score("Add.", ["x"])
    assert modules == "[]"


def test_a_record_without_the_settings_of_its_features_is_refused_in_one_line(
    project: ScoredProject, tmp_path: Path
) -> None:
    head = rewritten_head(project.head, tmp_path, ("models",), {"policy": {"path": "x"}})
    with pytest.raises(CheckpointError, match="run `critic train-head` again") as caught:
        Critic.load(head)
    assert "\n" not in str(caught.value)


def rewritten_head(head: Path, folder: Path, keys: tuple[str, ...], value: Any) -> Path:
    """Copy a head and change one field of its record, or of the configuration in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "head.safetensors").write_bytes((head / "head.safetensors").read_bytes())
    record = json.loads((head / "head.json").read_text())
    section = record if keys[0] in record else record["config"]
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    (folder / "head.json").write_text(json.dumps(record))
    return folder
