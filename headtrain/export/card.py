"""The model card of an exported critic: what it is, what it was judged at, what it read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.data.prompt import TEMPLATE
from headtrain.evaluation.results import Evaluation
from headtrain.head.checkpoint import TrainedHead

CARD_FILE = "README.md"


def write_card(
    folder: Path,
    head: TrainedHead,
    about: Mapping[str, Any],
    verdict: Sequence[tuple[str, str]] = (),
) -> None:
    """Write README.md; `verdict` has rows of the evaluation, `about` rows on the files beside it.

    The licence is left open: it depends on the backbone and the data.
    """
    record = head.record
    metrics = [(name, f"{value:.4f}") for name, value in sorted(record.metrics.items())]
    backbone = record.config.get("models", {}).get("policy", {}).get("name", "")
    parts = [
        "---\nlicense: other\nlicense_name: to-be-chosen\n"
        "tags:\n- critic\n- reward-model\npipeline_tag: text-classification\n---\n",
        "# A critic of code\n",
        "It scores solutions of a problem: a higher value is more likely correct. Compare values"
        " within a problem only.\n",
        _table("How it is used", list(about.items())),
        _table("Evaluation", verdict or [("not evaluated", "run `critic eval` before `push`")]),
        _table("Validation during training", metrics or [("none", "")]),
        _table(
            "How it was made",
            [
                ("backbone", backbone),
                ("head", f"{record.head_type}, {record.num_members} member(s)"),
                ("inputs", ", ".join([*record.tensors, *(["likelihood"] * record.likelihood)])),
                ("steps", record.step),
                ("feature recipe", record.recipe_fingerprint),
                ("feature store", record.store_fingerprint),
                *[(f"pairs: {name}", value) for name, value in record.pairs.items()],
            ],
        ),
        "## Prompt\n\nPrompt and output are tokenised apart and joined.\n",
        f"```text\n{TEMPLATE}```\n",
        "## Licence\n\nNot chosen here: it depends on the backbone and on the data. Set `license`"
        " above.\n",
    ]
    (folder / CARD_FILE).write_text("\n".join(parts), encoding="utf-8")


def verdict_rows(evaluation: Evaluation, split: str) -> list[tuple[str, str]]:
    """Take the rows of a card from an evaluation: the head, its shortcuts, the margin."""
    rows = [
        (f"{split}: {name}, accuracy over problems", str(judge["accuracy_over_problems"]))
        for name, judge in evaluation.splits[split].judges.items()
    ]
    verdict = evaluation.details[split].verdict if split in evaluation.details else None
    if verdict is not None:
        margin = verdict.margin["accuracy_over_problems"]
        rows.append((f"{split}: head minus {verdict.best_shortcut}", str(margin)))
    return rows


def _table(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"## {title}\n", "| | |", "| --- | --- |", *lines, ""])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
