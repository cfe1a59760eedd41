"""Rows of sets for judges, which name the answers of a pair in their own way, turned into pairs."""

from featurize.data.fields import Row, describe, is_blank, optional_text
from featurize.errors import RowFault

JUDGE_FIELDS = (
    *("question", "response_A", "response_B", "label", "source"),
    *("question_content", "starter_code", "pos_response", "neg_response", "difficulty"),
)
"""Fields that are read here."""

_VERDICTS = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}


def from_judge_row(row: Row) -> Row:
    """Return the pair of a row of JudgeBench or CodeJudgeBench; any other row as it is.

    JudgeBench (arXiv 2410.12784) has `question`, `response_A`, `response_B` and a `label` such as
    "A>B"; CodeJudgeBench (arXiv 2507.10535) has `question_content`, `starter_code`,
    `pos_response` and `neg_response`.

    Raises:
        RowFault: the label of two responses is not "A>B" or "B>A".
    """
    if "response_A" in row and "response_B" in row:
        return _from_verdict(row)
    if "pos_response" in row and "neg_response" in row:
        return _from_responses(row)
    return row


def _from_verdict(row: Row) -> Row:
    label = row.get("label")
    sides = _VERDICTS.get(label) if isinstance(label, str) else None
    if sides is None:
        raise RowFault(
            f"'label' is {describe(label)}; beside 'response_A' and 'response_B' it must be "
            '"A>B" or "B>A"; drop rows without a better answer'
        )
    used = ("question", "label", *sides)
    pair = {name: value for name, value in row.items() if name not in used}
    if "question" in row:
        pair["prompt"] = row["question"]
    if row.get("source") is not None:
        pair.setdefault("subset", row["source"])
    return pair | {"chosen": row[sides[0]], "rejected": row[sides[1]]}


def _from_responses(row: Row) -> Row:
    used = ("question_content", "starter_code", "pos_response", "neg_response", "difficulty")
    pair = {name: value for name, value in row.items() if name not in used}
    if "question_content" in row:
        pair["prompt"] = row["question_content"]
    if not is_blank(code := optional_text(row, "starter_code")):
        pair["input"] = code
    if row.get("difficulty") is not None:
        pair = _with_metadata(pair, "difficulty", row["difficulty"])
    return pair | {"chosen": row["pos_response"], "rejected": row["neg_response"]}


def _with_metadata(pair: Row, name: str, value: object) -> dict[str, object]:
    metadata = pair.get("metadata") or {}
    if not isinstance(metadata, dict):
        return dict(pair)  # refused where it is read
    return {**pair, "metadata": {name: value, **metadata}}
