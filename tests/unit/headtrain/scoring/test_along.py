"""Values along a solution: where prefixes end, their texts, and their values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.errors import CriticError
from featurize.model.pooling import POOLINGS
from headtrain.scoring import critic as critic_module
from headtrain.scoring.critic import Critic
from headtrain.scoring.verdict import (
    MAX_PARTS,
    By,
    check_prefixes,
    in_parts,
    prefix_lengths,
    prefix_texts,
    to_by,
)
from tests.support.scored_projects import make_project

PROMPT = "Add two numbers."
OUTPUT = "def add(a, b):\n    # é ∑ 🙂\n\n    c = a + b\n    return c\n\n\nprint(add(1, 2))"


def decode_bytes(ids: Sequence[int]) -> str:
    """Decode as byte-level tokenizers do, with a byte per token."""
    return bytes(ids).decode(errors="replace")


TOKENS = tuple(piece.encode() for piece in ("a", "\n", " \n\n ", "é", "if x:\n", "    ", "🙂"))


def test_each_line_ends_with_the_token_of_its_break(critic: Critic) -> None:
    along = critic.values_along(PROMPT, OUTPUT)
    assert "".join(along.texts) == OUTPUT
    assert all("\n" in text for text in along.texts[:-1])
    assert along.texts[0].rstrip(" ") == "def add(a, b):\n"
    assert along.texts[-1].lstrip(" \n") == "print(add(1, 2))"
    assert along.positions[-1] == len(critic.samples.encode_one(PROMPT, OUTPUT).output)


@pytest.mark.parametrize("by", ["lines", "tokens", 3])
def test_values_are_those_of_each_prefix_scored_alone(critic: Critic, by: By) -> None:
    sample = critic.samples.encode_one(PROMPT, OUTPUT)
    along = critic.values_along(PROMPT, OUTPUT, by)
    alone = [
        critic.score(list(sample.prompt), [sample.output[:length]])[0] for length in along.positions
    ]
    scale = max(map(abs, alone))
    assert list(along.values) == pytest.approx(alone, rel=0, abs=1e-5 * scale)
    assert np.ptp(alone) > 1e-3 * scale  # or anything would be equal


MIXED = ["mean.1", "std.3", "delta.3"]
SHAPES = {
    "mlp": {},
    "linear": {"head_type": "linear"},
    "mix": {"feature_mix": "mix"},
    "direct": {"likelihood_direct": True},
}


@pytest.mark.parametrize(
    ("tensors", "shape"),
    [
        *(([f"{pooling}.3"], "mlp") for pooling in POOLINGS),
        *((tensors, "linear") for tensors in ([], ["mean.3"], MIXED)),
        *((MIXED, shape) for shape in ("mlp", "mix", "direct")),
    ],
)
def test_the_last_value_is_the_score(tmp_path: Path, tensors: list[str], shape: str) -> None:
    poolings = sorted({name.partition(".")[0] for name in tensors} or {"mean"})
    project = make_project(
        tmp_path,
        f"featurize.poolings=[{','.join(poolings)}]",
        "featurize.layers=[1,3]",
        "featurize.likelihood=true",
        tensors=tensors,
        spec=SHAPES[shape],
    )
    critic = Critic.load(project.head, device="cpu")
    score = critic.score(PROMPT, [OUTPUT])[0]
    along = critic.values_along(PROMPT, OUTPUT)
    assert along.values[-1] == pytest.approx(score, rel=1e-5)
    assert sum(np.diff(along.values, prepend=0.0)) == pytest.approx(score, rel=1e-5)


def test_values_do_not_depend_on_what_else_is_judged(critic: Critic) -> None:
    alone = critic.values_along(PROMPT, OUTPUT)
    texts = [OUTPUT, OUTPUT, "return a\n" * 9, OUTPUT[:40]]
    samples = critic.samples.encode(PROMPT, texts)
    asked = [
        critic.samples.with_prefixes(samples[0], "lines"),
        critic.samples.with_prefixes(samples[1], "tokens"),
        critic.samples.with_prefixes(samples[2], 4),
        samples[3],
    ]
    judged = critic.judge_samples(asked)
    assert judged[0].along is not None
    assert judged[1].along is not None
    scale = max(map(abs, alone.values))
    assert judged[0].along.values == pytest.approx(alone.values, rel=0, abs=1e-5 * scale)
    assert set(judged[0].along.values) <= set(judged[1].along.values)
    assert judged[3].along is None
    values = critic.score(PROMPT, texts)
    assert [one.value for one in judged] == pytest.approx(values, rel=0, abs=1e-5 * scale)


def test_many_prefixes_are_judged_in_parts(critic: Critic, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = critic.samples
    encoded = encoder.encode(PROMPT, [OUTPUT, "a\nb\n", "c"])
    samples = [encoder.with_prefixes(one, "lines") for one in encoded]
    whole = critic.judge_samples(samples)
    monkeypatch.setattr(critic_module, "MAX_PREFIXES", 3)
    for found, expected in zip(critic.judge_samples(samples), whole, strict=True):
        assert found.along is not None
        assert expected.along is not None
        assert found.along.values == pytest.approx(expected.along.values, abs=1e-5)
        assert found.along.texts == expected.along.texts


@given(pieces=st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12), by=st.integers(1, 40))
def test_prefixes_ascend_to_the_whole_and_their_texts_join(pieces: list[bytes], by: int) -> None:
    ids = list(b"".join(pieces))
    for where in ("lines", "tokens", by):
        lengths = prefix_lengths(ids, where, decode_bytes)  # type: ignore[arg-type]
        assert list(lengths) == sorted(set(lengths))
        assert lengths[-1] == len(ids)
        texts = prefix_texts(ids, lengths, decode_bytes)
        assert "".join(texts) == decode_bytes(ids)
        assert len(texts) == len(lengths)
        if where == "lines":
            assert texts == tuple(decode_bytes(ids).splitlines(keepends=True))
        if where == by:
            assert len(lengths) == min(by, len(ids))
            assert np.diff(lengths, prepend=0).max() == -(-len(ids) // by)


@given(counts=st.lists(st.integers(1, 9), max_size=20), limit=st.integers(1, 20))
def test_parts_cover_the_samples_within_the_limit(counts: list[int], limit: int) -> None:
    parts = [counts[part] for part in in_parts(counts, limit)]
    assert [count for part in parts for count in part] == counts
    assert all(sum(part) <= limit or len(part) == 1 for part in parts)
    assert all(parts)


@pytest.mark.parametrize("value", ["words", "", "0", "-1", 0, -3, True, "²", MAX_PARTS + 1, "1.5"])
def test_another_place_is_refused_by_name(value: str | int) -> None:
    with pytest.raises(CriticError, match=r"'along' is .*lines, tokens, or a number"):
        to_by(value)


def test_a_number_may_be_a_text() -> None:
    assert (to_by("12"), to_by(12), to_by("lines"), to_by("tokens")) == (12, 12, "lines", "tokens")


def test_a_head_that_reads_a_question_is_refused(tmp_path: Path) -> None:
    project = make_project(
        tmp_path,
        "prompt.question=Is it correct?",
        'prompt.answers=["a","b"]',
        tensors=["question.3"],
    )
    critic = Critic.load(project.head, device="cpu")
    with pytest.raises(CriticError, match=r"reads question\.3.* no values along"):
        critic.values_along(PROMPT, OUTPUT)


def test_a_head_that_reads_the_end_token_is_refused() -> None:
    with pytest.raises(CriticError, match=r"reads delta\.3.*prompt\.end"):
        check_prefixes(["mean.3", "delta.3"], has_end=True)
    check_prefixes(["mean.3", "std.3", "max.1", "first.3"], has_end=True)
    check_prefixes(["last.3", "delta.3"], has_end=False)
