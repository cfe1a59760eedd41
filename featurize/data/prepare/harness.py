"""Makes samples from the files of evaluation harnesses, each with what writes it back.

Formats, as their projects' own code has them: human-eval `human_eval/evaluation.py`; EvalPlus
`evalplus/evaluate.py`; LiveCodeBench `lcb_runner/runner/custom_evaluator.py`; lm-evaluation-harness
`--log_samples`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from featurize.data.prepare.from_tests.problems import find_source
from featurize.data.prepare.prepared import Counts, Row, read_rows
from featurize.data.sources import find_sources
from featurize.errors import DataError
from featurize.io.files import atomic_path, read_json

Harness: TypeAlias = Literal["human-eval", "evalplus", "livecodebench", "lm-eval"]
FIELD = "harness"
"""Field of a row with the harness and the one sample to write back."""
LM_EVAL_METRICS = ("pass@1", "exact_match", "acc")
PASSED = ("pass", "success")

REMEDY = "repair it, or give the file that the harness wrote"


def prepare_harness(
    harness: Harness,
    samples: Path,
    out: Path,
    *,
    problems: str | None = None,
    results: Path | None = None,
    overwrite: bool = False,
) -> Counts:
    """Write the samples of a harness, joined with their statements, as rows of critic.

    Args:
        harness: who wrote the file.
        samples: its samples (or its results, which have the samples in them).
        out: the .jsonl file to write.
        problems: statements of human-eval and evalplus; None: the human-eval package.
        results: of evalplus the `*_eval_results.json` with the statuses.
        overwrite: replace `out`.

    Raises:
        DataError: a file or a row is not of that format, or a statement is missing.
    """
    _check_options(harness, problems, results)
    if not out.name.endswith(".jsonl"):
        raise DataError(f"--out {str(out)!r}: name a .jsonl file")
    if out.exists() and not overwrite:
        raise DataError(f"--out {str(out)!r} exists; name another file, or give --overwrite")
    if not samples.is_file():
        raise DataError(f"--source {str(samples)!r}: no such file")
    counts, tasks, numbers = Counts(), set(), Counter[str]()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        for row in _read(harness, samples, problems, results):
            if not row["output"].strip():
                counts.samples_left_out["without a text"] += 1
                continue
            task = row["problem_id"]
            numbers[task] += 1
            tasks.add(task)
            counts.add(row.get("is_correct"))
            file.write(orjson.dumps({"task_id": f"{task}#{numbers[task]}", **row}) + b"\n")
        if not tasks:
            raise DataError(f"{samples}: no sample has a text, so nothing was written")
    counts.problems = len(tasks)
    return counts


def _check_options(harness: Harness, problems: str | None, results: Path | None) -> None:
    """Raise DataError for an option that this harness has no use for."""
    if problems is not None and harness not in ("human-eval", "evalplus"):
        raise DataError(f"--problems {problems!r}: the samples of {harness} have their statements")
    if results is not None and harness != "evalplus":
        raise DataError(f"--results {str(results)!r} is for evalplus; leave it out")


def _read(
    harness: Harness, samples: Path, problems: str | None, results: Path | None
) -> Iterator[Row]:
    if harness == "livecodebench":
        yield from _livecodebench(samples)
    elif harness == "lm-eval":
        yield from _lm_eval(samples)
    else:
        statuses = {} if results is None else _read_statuses(results)
        yield from _functions(harness, samples, _read_problems(problems), statuses)


def _read_file(path: Path) -> Iterator[tuple[str, Row]]:
    return read_rows(find_sources(str(path)))


def _read_problems(problems: str | None) -> dict[str, dict[str, Any]]:
    path = find_source(problems or "human-eval")
    return {str(_get(row, "task_id", str, where)): row for where, row in _read_file(path)}


def _functions(
    harness: str,
    samples: Path,
    problems: Mapping[str, dict[str, Any]],
    statuses: Mapping[str, list[bool]],
) -> Iterator[Row]:
    """human-eval and EvalPlus: completions of a prompt, or whole solutions."""
    seen = Counter[str]()
    for where, sample in _read_file(samples):
        task = _get(sample, "task_id", str, where)
        if task not in problems:
            raise DataError(
                f"{where}: no statement of task {task!r}; name the file of its problems: --problems"
            )
        prompt = _get(problems[task], "prompt", str, f"the statement of {task}")
        if "solution" in sample:
            output = _get(sample, "solution", str, where)
        else:
            output = prompt + _get(sample, "completion", str, where)
        label = sample.get("passed")
        if statuses:
            label = _status(statuses, task, seen[task], where)
        seen[task] += 1
        name = problems[task].get("entry_point")
        ask = f"Write the Python function `{name}` that does what its docstring says.\n\n"
        kept = {key: value for key, value in sample.items() if key not in ("passed", "result")}
        yield _row(task, (ask if name else "") + prompt.strip(), output, label, harness, kept)


def _status(statuses: Mapping[str, list[bool]], task: str, number: int, where: str) -> bool:
    if number >= len(statuses.get(task, ())):
        raise DataError(f"{where}: --results has no status of sample {number + 1} of {task!r}")
    return statuses[task][number]


def _read_statuses(path: Path) -> dict[str, list[bool]]:
    """EvalPlus: whether each sample passed all the tests that ran, in the order of the samples."""
    try:
        return {task: _passes(value) for task, value in read_json(path, REMEDY)["eval"].items()}
    except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not the results of evalplus ({error!r})") from error


def _passes(found: Any) -> list[bool]:
    if isinstance(found, list):
        pairs = [(one["base_status"], one.get("plus_status")) for one in found]
    else:  # of older versions
        plus = found["plus"] or [(None,)] * len(found["base"])
        pairs = [(a[0], b[0]) for a, b in zip(found["base"], plus, strict=True)]
    return [base in PASSED and plus in (None, *PASSED) for base, plus in pairs]


def _livecodebench(path: Path) -> Iterator[Row]:
    content = read_json(path, REMEDY)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(f"{path}: not a list of questions; give the *_eval_all.json")
    for place, item in enumerate(content):
        where = f"{path}: question {place + 1}"
        question = str(item.get("question_id", ""))
        codes = _get(item, "code_list", list, where)
        grades = item.get("graded_list") or [None] * len(codes)
        if not question or len(grades) != len(codes):
            raise DataError(f"{where}: has no question_id, or not a grade for each code")
        statement = _get(item, "question_content", str, where)
        if starter := item.get("starter_code"):
            statement += f"\n\n{starter}"
        for code, grade in zip(codes, grades, strict=True):
            sample = {"question_id": question, "code_list": [code]}
            yield _row(question, statement, str(code), grade, "livecodebench", sample)


def _lm_eval(path: Path) -> Iterator[Row]:
    for where, item in _read_file(path):
        document = str(item.get("doc_id", ""))
        prompt = _prompt_of(item.get("arguments"))
        responses = _get(item, "resps", list, where)
        texts = responses[0] if responses and isinstance(responses[0], list) else responses
        if not document or prompt is None or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: not a generation logged by lm-eval (--log_samples)")
        marks = [item[name] for name in LM_EVAL_METRICS if item.get(name) in (0, 1)]
        label = bool(marks[0]) if marks and len(texts) == 1 else None
        filtered = item.get("filtered_resps") or [texts]
        whole = filtered[0] if isinstance(filtered[0], list) else filtered
        for place, text in enumerate(texts):
            answer = whole[place] if len(whole) == len(texts) else text
            sample = {**item, "resps": [[text]], "filtered_resps": [answer]}
            yield _row(document, prompt, text, label, "lm-eval", sample)


def _prompt_of(arguments: Any) -> str | None:
    """The prompt of a request: [[prompt, options]], or the same by names."""
    if isinstance(arguments, dict):
        arguments = [list(one.values()) for one in arguments.values() if isinstance(one, dict)]
    first = arguments[0] if isinstance(arguments, list) and arguments else None
    prompt = first[0] if isinstance(first, list) and first else None
    return prompt if isinstance(prompt, str) else None


def _row(
    task: str, statement: str, output: str, label: Any, harness: str, sample: dict[str, Any]
) -> Row:
    labels = {} if label is None else {"is_correct": bool(label)}
    content = {"name": harness, "sample": sample}
    return {
        "problem_id": task,
        "instruction": statement,
        "output": output,
        **labels,
        "metadata": {"source": harness},
        FIELD: content,
    }


def _get(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = row.get(name)
    if not isinstance(value, kind):
        found = "missing" if value is None else repr(value)[:40]
        raise DataError(f"{where}: {name!r} is {found}, not a {kind.__name__}; repair the row")
    return value
