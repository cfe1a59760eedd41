"""Work for a backbone: problems of random tokens, and problems of text that is on every machine."""

import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from featurize.model.packing import PromptGroup

CHARS_PER_TOKEN = 3
"""Of Python source under a BPE tokenizer of a few thousand tokens, about."""


def make_workload(
    problems: int, candidates: int, prompt_tokens: tuple[int, int], vocab: int, seed: int = 0
) -> list[PromptGroup]:
    """Problems of random tokens: prompts in the given range, outputs of 50 to 400 tokens."""
    draw = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000, vocab) for _ in range(length))

    return [
        PromptGroup(
            prompt=ids(draw.randint(*prompt_tokens)),
            outputs=tuple(ids(draw.randint(50, 400)) for _ in range(candidates)),
            rows=tuple(range(number * candidates, (number + 1) * candidates)),
        )
        for number in range(problems)
    ]


def source_text(characters: int) -> str:
    """The first characters of the standard library's modules, in the order of their names."""
    parts, left = [], characters
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if left <= 0:
            break
        parts.append(path.read_text(encoding="utf-8", errors="replace")[:left])
        left -= len(parts[-1])
    return "".join(parts)


def write_problems(
    path: Path, problems: int, candidates: int, tokens: tuple[int, int], text: str, seed: int = 0
) -> Path:
    """Write samples whose prompts and outputs are pieces of a text; `tokens` bounds a prompt's."""
    draw = random.Random(seed)

    def piece(low: int, high: int) -> str:
        size = CHARS_PER_TOKEN * draw.randint(low, high)
        start = draw.randrange(max(1, len(text) - size))
        return text[start : start + size]

    def rows() -> Iterator[str]:
        for problem in range(problems):
            instruction = piece(*tokens)
            for number in range(candidates):
                row = {
                    "instruction": instruction,
                    "input": "",
                    "output": piece(50, max(51, tokens[1] * 2 // 3)),
                    "is_correct": number % 2 == 0,
                    "problem_id": f"p{problem}",
                    "task_id": f"p{problem}-{number}",
                    "metadata": {"language": "python", "difficulty": 1, "source": "stdlib"},
                }
                yield json.dumps(row) + "\n"

    path.write_text("".join(rows()), encoding="utf-8")
    return path
