"""Reading a configuration: what is found, what is merged, and what each mistake is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.config import notes
from configs.loader import ConfigError, load_config, load_recorded, to_dict

SHORT = """
experiment:
  name: short
models:
  policy: {name: tiny, path: tiny}
dataset:
  name: few
"""


def problems_of(path: Path | None, *overrides: str) -> list[str]:
    """The lines of the error, with the folder of a temporary file cut off."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    folder = f"{path.parent}/" if path else ""
    return [line.removeprefix(folder) for line in str(caught.value).splitlines()]


def demo_problem(override: str) -> str:
    (line,) = problems_of(Path("demo.yaml"), override)
    return line


RECORD = to_dict(load_config(Path("demo.yaml"), ["storage.root=/old", "experiment.name=mine"]))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_text(text: str) -> Path:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.mark.parametrize(
    ("name", "experiment"),
    [(None, "critic-pretrain-pairwise"), ("configs/demo.yaml", "demo"), ("demo.yaml", "demo")],
)
def test_a_packaged_file_is_found_from_any_folder(
    name: str | None, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path(name) if name else None).experiment.name == experiment


def test_a_file_in_the_working_folder_comes_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text(SHORT, encoding="utf-8")
    assert load_config(Path("demo.yaml")).experiment.name == "short"


def test_sections_left_out_have_their_defaults(write: Callable[[str], Path]) -> None:
    config = load_config(write(SHORT))
    assert config.training.n_epochs == 1.0
    assert config.storage.models_dir == "storage/models"
    assert config.checkpoint.save_dir == "storage/checkpoints/critic/short"
    assert config.featurize.layers == (-1,)
    assert config.distributed.fsdp is None
    assert notes(config) == []


def test_interpolations_reach_sections_that_were_left_out(write: Callable[[str], Path]) -> None:
    path = write(f"{SHORT}  train: ${{storage.datasets_dir}}/few.jsonl\n")
    assert load_config(path, ["storage.root=/data"]).dataset.train == "/data/datasets/few.jsonl"


def test_the_environment_fills_in_with_a_default(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(f"{SHORT}  max_length: ${{oc.env:CRITIC_TEST_LENGTH,512}}\n")
    monkeypatch.delenv("CRITIC_TEST_LENGTH", raising=False)
    assert load_config(path).dataset.max_length == 512
    monkeypatch.setenv("CRITIC_TEST_LENGTH", "1024")
    assert load_config(path).dataset.max_length == 1024


def test_overrides_are_read_as_yaml_and_the_last_one_counts() -> None:
    config = load_config(
        Path("demo.yaml"),
        [
            "training.value_head_learning_rate=3e-4",
            "training.max_grad_norm=null",
            "checkpoint.save_best=no",
            "featurize.layers=[3, 6]",
            "dataset.test=[a.jsonl, b.jsonl]",
            "experiment.description='a: b=c'",
            "training.n_epochs=2",
            "training.n_epochs=3",
        ],
    )
    assert config.training.value_head_learning_rate == 3e-4
    assert config.training.max_grad_norm is None
    assert config.checkpoint.save_best is False
    assert config.featurize.layers == (3, 6)
    assert config.dataset.test == ("a.jsonl", "b.jsonl")
    assert config.experiment.description == "a: b=c"
    assert config.training.n_epochs == 3


def test_an_override_reaches_into_a_section_and_keeps_its_other_keys() -> None:
    settings = ["models.policy.params.dim=576", "data_sampling.pairwise={n_pairs: 7}"]
    config = load_config(Path("demo.yaml"), settings)
    assert config.models.policy.params is not None
    assert config.models.policy.params.dim == 576
    assert config.data_sampling.pairwise.n_pairs == 7
    assert config.data_sampling.pairwise.max_pairs_per_problem == 60


def test_to_dict_is_plain_and_resolved(write: Callable[[str], Path]) -> None:
    plain = to_dict(load_config(write(SHORT)))
    assert plain["checkpoint"]["save_dir"] == "storage/checkpoints/critic/short"
    assert plain["featurize"]["layers"] == [-1]
    assert plain["distributed"] == {
        "shard_backbone": False,
        "tensor_parallel_size": 1,
        "max_restarts": 0,
        "fsdp": None,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "training: {n_epoch: 3}",
            "training.n_epoch: unknown key; did you mean training.n_epochs?",
        ),
        ("trainin: {n_epochs: 3}", "trainin: unknown key; did you mean training?"),
        (
            "training: {lr_scheduler: {typ: 3}}",
            "training.lr_scheduler.typ: unknown key; did you mean training.lr_scheduler.type?",
        ),
        (
            "training: {n_pairs: 3}",
            "training.n_pairs: unknown key; did you mean data_sampling.pairwise.n_pairs?",
        ),
        (
            "evaluation: {zzz: 3}",
            "evaluation.zzz: unknown key; the keys there are train_holdout, bootstrap_rounds,"
            " confidence, length_tolerance, minimal_edit, most_texts, mistakes",
        ),
        (
            "evaluation: {3: 3}",
            "evaluation.3: unknown key; the keys there are train_holdout, bootstrap_rounds,"
            " confidence, length_tolerance, minimal_edit, most_texts, mistakes",
        ),
    ],
)
def test_an_unknown_key_is_reported_with_its_line_and_the_nearest_key(
    text: str, expected: str, write: Callable[[str], Path]
) -> None:
    assert problems_of(write(f"{SHORT}{text}\n")) == [f"x.yaml:8: {expected}"]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("training.n_epoch=3", "training.n_epochs"),
        ("train.n_epochs=3", "training.n_epochs"),
        ("training.seed=3", "runtime.seed or data_sampling.seed"),
        ("experiment.tags[0]=x", "experiment.tags"),
    ],
)
def test_an_override_of_an_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    line = demo_problem(override)
    assert line.startswith(f"--set {override}: ")
    assert line.endswith(f" {nearest}?")


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
            "'a' is [nan], which JSON cannot hold, as NaN or inf; write a number",
        ),
        ("", "not of the form section.key=value"),
        ("=3", "not of the form section.key=value"),
        ("training..n_epochs=3", "not of the form section.key=value"),
        ("storage.root=${nope.x}", "Interpolation key 'nope.x' not found"),
        ("storage.root=${storage.root}", "Recursive interpolation detected"),
        ("experiment.name=???", "missing, and it has no default"),
        ("training.n_epochs=many", "got 'many', expected a number"),
        ("training.n_epochs=true", "got true, expected a number"),
        ("training.batch_size=1.5", "got 1.5, expected a whole number"),
        ("training.batch_size=0", "got 0, expected a number greater than 0"),
        ("training.batch_size=null", "got null, expected a whole number"),
        ("training=5", "got 5, expected a section of keys"),
        ("training=[]", "got [], expected a section of keys"),
        ("experiment.tags={a: 1}", "got {'a': 1}, expected a list in [brackets]"),
        ("checkpoint.save_best=maybe", "got 'maybe', expected true or false"),
        ("project.version=1.0", "got 1.0, expected text (in quotes)"),
        ("storage.root=''", "got '', expected some text"),
        ("models.policy.path=''", "got '', expected some text"),
        ("runtime.device=tpu", "got 'tpu', expected 'auto', 'cpu' or 'cuda'"),
        ("featurize.layers=first", "got 'first', expected a list in [brackets] or 'all'"),
        ("featurize.layers=[1, x]", "got [1, 'x'], expected 'all' or each item a whole number"),
        (
            "featurize.poolings=[meen]",
            "[0]: got 'meen', expected 'mean', 'last', 'max', 'std', 'first' or 'delta'",
        ),
        ("dataset.train={a: 1}", "got {'a': 1}, expected text (in quotes) or a list in [brackets]"),
    ],
)
def test_a_wrong_override_is_reported_with_what_is_expected(override: str, expected: str) -> None:
    assert demo_problem(override) == f"--set {override}: {expected}"


def test_an_override_that_is_not_yaml_is_refused() -> None:
    line = demo_problem("logging.format=%(message)s")
    assert line.startswith("--set logging.format=%(message)s: the value is not YAML")
    assert line.endswith("quote it")


def test_an_override_of_several_lines_is_refused_in_one() -> None:
    assert demo_problem("a\nb").startswith(r"--set 'a\nb': ")


def test_a_contradiction_within_a_section_names_the_override_that_made_it() -> None:
    line = demo_problem("dataset.max_prompt_length=5000")
    assert line.startswith("configs/demo.yaml:") or line.startswith("demo.yaml:")
    assert "max_prompt_length 5000" in line
    assert line.endswith("(with --set dataset.max_prompt_length=5000)")


def test_a_contradiction_between_sections_is_refused() -> None:
    (line,) = problems_of(
        Path("demo.yaml"), "featurize.likelihood=false", "training.likelihood=true"
    )
    assert "training.likelihood true and featurize.likelihood false contradict" in line


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("experiment.name=../other", "'../other'"),
        ("featurize.store_name=a/b", "'a/b'"),
        ("storage.root=s3://bucket", "is not a local folder"),
        ("checkpoint.save_dir=s3://bucket", "is not a local folder"),
    ],
)
def test_a_refused_value_says_why(override: str, reason: str) -> None:
    assert reason in demo_problem(override)


def test_a_wrong_value_in_a_file_is_reported_with_its_key_and_line(
    write: Callable[[str], Path],
) -> None:
    path = write(f"{SHORT}\ntraining:\n  batch_size: many\n")
    (line,) = problems_of(path)
    assert line.startswith("x.yaml:10: training.batch_size: got 'many', ")


def test_every_problem_is_listed_the_overrides_first(write: Callable[[str], Path]) -> None:
    path = write("models:\n  policy: {path: tiny, nam: x}\ntraining:\n  n_epoch: 3\n")
    places = [
        "--set bad: ",
        "x.yaml: experiment: ",
        "x.yaml:2: models.policy.name: ",
        "x.yaml:2: models.policy.nam: ",
        "x.yaml: dataset: ",
        "x.yaml:4: training.n_epoch: ",
        "--set runtime.seed=-1: got -1, ",
    ]
    problems = problems_of(path, "bad", "runtime.seed=-1")
    assert len(problems) == len(places)
    assert all(map(str.startswith, problems, places))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1,\nb: 2\n", "x.yaml:3: not valid YAML: did not find expected ',' or ']'"),
        ("a: 1\na: 2\n", "x.yaml:2: not valid YAML: found duplicate key a"),
        ("", "x.yaml: holds no sections; see configs/critic_pairwise.yaml"),
        ("- 1\n", "x.yaml: holds no sections; see configs/critic_pairwise.yaml"),
        ("hello\n", "x.yaml: holds no sections; see configs/critic_pairwise.yaml"),
        (
            f"{SHORT}  train: ${{storage.data}}/x\n",
            "x.yaml:8: dataset.train: Interpolation key 'storage.data' not found",
        ),
        (
            f"{SHORT}  train: ${{oc.env:CRITIC_TEST_UNSET}}\n",
            "x.yaml:8: dataset.train: Environment variable 'CRITIC_TEST_UNSET' not found",
        ),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_refused_in_one_line(
    text: str, expected: str, write: Callable[[str], Path]
) -> None:
    assert problems_of(write(text)) == [expected]


def test_a_missing_file_is_refused_with_the_files_there_are(tmp_path: Path) -> None:
    (line,) = problems_of(tmp_path / "none.yaml")
    assert line == (
        "none.yaml: no such file; the packaged ones are critic_pairwise.yaml, "
        "critic_pointwise.yaml, demo.yaml"
    )


def test_a_folder_and_a_file_that_is_not_text_are_refused(tmp_path: Path) -> None:
    folder, binary = tmp_path / "folder", tmp_path / "x.yaml"
    folder.mkdir()
    binary.write_bytes(b"a: \xff")
    assert problems_of(folder) == ["folder: cannot be read: Is a directory"]
    assert problems_of(binary) == ["x.yaml: byte 3 is not UTF-8 text; save it so"]


@pytest.mark.parametrize(
    "value", ["run #2", "'a' #2", "[a, b] # c", "{a: 1} #", "#2", "a\t#b", '"a" #b']
)
def test_a_value_of_which_yaml_would_drop_a_comment_is_refused(value: str) -> None:
    problem = demo_problem(f"experiment.description={value}")
    assert "comment; quote the value: --set 'experiment.description=" in problem


@pytest.mark.parametrize(
    ("value", "expected"), [("run#2", "run#2"), ("'run #2'", "run #2"), ('"#"', "#")]
)
def test_a_number_sign_that_starts_no_comment_is_kept(value: str, expected: str) -> None:
    config = load_config(Path("demo.yaml"), [f"experiment.description={value}"])
    assert config.experiment.description == expected


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config(
        Path("demo.yaml"),
        [
            "storage.root=~/critic",
            "models.policy.path=~/model",
            "models.policy.tokenizer_path=~/tokenizer",
            "dataset.train=[~/a.jsonl, b~.jsonl, ~nobody-here/c.jsonl]",
            "data_sampling.pairwise.exclude_problems=~/ids.txt",
        ],
    )
    assert config.storage.root == "/home/me/critic"
    assert config.storage.features_dir == "/home/me/critic/features"
    assert config.checkpoint.save_dir == "/home/me/critic/checkpoints/critic/demo"
    assert config.models.policy.path == "/home/me/model"
    assert config.models.policy.tokenizer_path == "/home/me/tokenizer"
    assert config.dataset.train == ("/home/me/a.jsonl", "b~.jsonl", "~nobody-here/c.jsonl")
    assert config.data_sampling.pairwise.exclude_problems == "/home/me/ids.txt"


def test_what_heads_record_has_no_password() -> None:
    uri = "postgresql://me:secret@db:5432/critic"
    config = load_config(Path("demo.yaml"), [f"mlflow.tracking_uri={uri}"])
    assert config.mlflow.tracking_uri == uri
    assert to_dict(config)["mlflow"]["tracking_uri"] == "postgresql://me:***@db:5432/critic"


def test_a_record_comes_back_as_the_configuration_it_was_made_of() -> None:
    assert to_dict(load_recorded(RECORD, "head.json")) == RECORD


def test_folders_in_the_root_follow_it_and_others_stay() -> None:
    storage = RECORD["storage"] | {"features_dir": "s3://bucket/features"}
    moved = load_recorded(RECORD | {"storage": storage}, "head.json", ["storage.root=/new"]).storage
    assert moved.models_dir == "/new/models"
    assert moved.features_dir == "s3://bucket/features"


def test_an_override_and_its_mistakes_are_reported() -> None:
    assert load_recorded(RECORD, "h", ["runtime.device=cpu"]).runtime.device == "cpu"
    with pytest.raises(ConfigError, match=r"--set runtime\.devise=cpu"):
        load_recorded(RECORD, "h", ["runtime.devise=cpu"])


def test_a_record_of_another_version_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"run/head\.json"):
        load_recorded(RECORD | {"unheard_of": {}}, "run/head.json")
