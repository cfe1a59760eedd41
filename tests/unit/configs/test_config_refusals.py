"""Overrides and values that contradict a configuration, and what is said of them."""

from pathlib import Path

import pytest

from tests.support.config_problems import demo_problem, problems_of


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("bad", "not of the form section.key=value"),
        ("prompt.answers=[a]", "got ['a'], which has too few items; write 2"),
        ("prompt.answers=[]", "got [], which has too few items; write 2"),
        ("prompt.answers=[a, b, c]", "got ['a', 'b', 'c'], expected at most 2 items"),
        (
            "prompt.chat_template_kwargs={padding: true}",
            "'padding' is an argument of transformers and no variable of a template; leave it out",
        ),
        (
            "prompt.chat_template_kwargs={a: [.nan]}",
            "'a' is [nan], which holds NaN or inf; write a number",
        ),
        ("", "not of the form section.key=value"),
        ("=3", "not of the form section.key=value"),
        ("training..n_epochs=3", "not of the form section.key=value"),
        ("training.n_epoch=3", "unknown key; did you mean training.n_epochs?"),
        ("train.n_epochs=3", "unknown key; did you mean training.n_epochs?"),
        ("training.seed=3", "unknown key; did you mean runtime.seed or data_sampling.seed?"),
        ("experiment.tags[0]=x", "unknown key; did you mean experiment.tags?"),
        ("storage.root=${nope.x}", "Interpolation key 'nope.x' not found"),
        ("storage.root=${storage.root}", "Recursive interpolation detected"),
        ("experiment.name=???", "missing, and it has no default"),
    ],
)
def test_a_bad_override_is_refused(override: str, expected: str) -> None:
    assert demo_problem(override) == f"--set {override}: {expected}"


def test_an_override_that_is_not_yaml_is_refused() -> None:
    line = demo_problem("logging.format=%(message)s")
    assert line.startswith("--set logging.format=%(message)s: the value is not YAML")
    assert line.endswith("quote it")


def test_an_override_of_several_lines_is_refused_in_one() -> None:
    assert demo_problem("a\nb") == r"--set 'a\nb': not of the form section.key=value"


def test_a_contradiction_within_a_section_names_the_override_that_made_it() -> None:
    line = demo_problem("dataset.max_prompt_length=5000")
    assert line.startswith("configs/demo.yaml:") or line.startswith("demo.yaml:")
    assert "max_prompt_length 5000 leaves an output no room within max_length 1024" in line
    assert line.endswith("(with --set dataset.max_prompt_length=5000)")


def test_a_contradiction_between_sections_is_refused() -> None:
    (line,) = problems_of(
        Path("demo.yaml"), "featurize.likelihood=false", "training.likelihood=true"
    )
    assert "training.likelihood true and featurize.likelihood false contradict" in line


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("distributed={shard_backbone: true, tensor_parallel_size: 2}", "one way or the other"),
        ("data_sampling.sampling_method=problems", "split the pairs"),
        ("training.num_unfrozen_layers=2", "the backbone is frozen"),
        ("training.trunk_learning_rate=1e-5", "the backbone is frozen"),
        ("experiment.name=../other", "cannot name a folder"),
        ("featurize.store_name=a/b", "cannot name a folder"),
        ("storage.root=s3://bucket", "is not a local folder"),
        ("checkpoint.save_dir=s3://bucket", "is not a local folder"),
        ("models.policy.quantization=4bit", "a .gguf file has its own quantization"),
        ("models.policy.revision=main", "only a hub id has revisions"),
    ],
)
def test_a_refused_value_says_why(override: str, reason: str) -> None:
    assert reason in demo_problem(override)
