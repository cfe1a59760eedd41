"""From stores and a head to an evaluation: what is read, and the reasons why something is not."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from msgspec import structs

from configs.loader import load_config, to_dict
from featurize.data.records import Sample
from headtrain.evaluation.evaluate import evaluate_head
from headtrain.evaluation.texts import TextSource
from headtrain.pairs.rows import choose_holdout
from headtrain.settings import EvaluationSettings
from tests.support.synthetic_stores import replace_column, replace_samples, write_store

SETTINGS = EvaluationSettings(bootstrap_rounds=50, minimal_edit=0.5)


@dataclasses.dataclass
class Record:
    """The fields of a head's record that an evaluation needs."""

    config: dict
    holdout: object = None
    pairs: dict = dataclasses.field(default_factory=dict)
    weights_checksum: str = "sum"
    recipe_fingerprint: str = "recipe"


class LengthHead:
    """A head that scores the length of the output."""

    path = "heads/best"

    def __init__(self, **record):
        self.record = Record(config=to_dict(load_config(None)), **record)

    def score(self, store):
        return store.samples["output_tokens"].to_numpy().astype(np.float32)

    def read_distance(self):
        return None


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        "train": write_store(folder / "train", num_problems=12, likelihood=True),
        "valid": write_store(folder / "valid", num_problems=6, likelihood=True, seed=1),
    }


def marked_texts(store):
    """Texts whose correct ones say `good`; two of a problem differ in one word."""
    rows = zip(
        store.samples["task_id"].to_pylist(), store.samples["is_correct"].to_pylist(), strict=True
    )
    outputs = {task: f"def f(): return {'good' if label else 'bad'}" for task, label in rows}

    def read(task_ids):
        return [
            Sample(
                instruction="Write f.",
                output=outputs[task_id],
                is_correct=None,
                problem_id="p",
                task_id=task_id,
                difficulty=None,
                source=None,
                language=None,
                location="file:1",
            )
            for task_id in task_ids
        ]

    return TextSource(read=read)


def test_a_head_is_evaluated_beside_every_shortcut_its_stores_and_texts_allow(stores):
    texts = {name: marked_texts(store) for name, store in stores.items()}
    found = evaluate_head(LengthHead(), stores, SETTINGS, texts=texts)
    judges = found.evaluation.splits["valid"].judges
    assert list(judges) == [
        "head",
        "longer_is_correct",
        "shorter_is_correct",
        "logprob_mean",
        "logprob_sum",
        "bag_of_ngrams",
    ]
    assert judges["head"] == judges["longer_is_correct"]
    assert judges["bag_of_ngrams"]["accuracy_over_pairs"].estimate == 1.0
    details = found.evaluation.details["valid"]
    assert details.verdict.best_shortcut == "bag_of_ngrams"
    assert details.minimal_pairs.num_pairs == found.evaluation.splits["valid"].counts.num_pairs
    assert set(details.left_out) == {"best_of_n/majority"}
    assert "language" in details.breakdowns
    assert "difficulty" not in details.breakdowns  # nobody has one


def test_the_ngrams_are_trained_on_train_only(stores):
    def swapped(store):
        plain = marked_texts(store)
        turned = {"good": "bad", "bad": "good"}

        def read(task_ids):
            return [
                structs.replace(s, output=s.output[: -len(w)] + turned[w])
                for s in plain.read(task_ids)
                for w in [s.output.split()[-1]]
            ]

        return TextSource(read=read)

    texts = {"train": marked_texts(stores["train"]), "valid": swapped(stores["valid"])}
    judges = evaluate_head(LengthHead(), stores, SETTINGS, texts=texts).evaluation.splits
    assert judges["train"].judges["bag_of_ngrams"]["accuracy_over_pairs"].estimate == 1.0
    assert judges["valid"].judges["bag_of_ngrams"]["accuracy_over_pairs"].estimate == 0.0


@pytest.mark.parametrize(
    ("settings", "texts", "why"),
    [
        (SETTINGS, None, "its texts cannot be read: no dataset was given"),
        (SETTINGS, TextSource(why_not="gone"), "its texts cannot be read: gone"),
        (dataclasses.replace(SETTINGS, most_texts=None), "there", "evaluation.most_texts is null"),
        (
            dataclasses.replace(SETTINGS, most_texts=47),
            "there",
            "48 texts are more than evaluation.most_texts 47",
        ),
    ],
)
def test_what_needs_texts_is_left_out_with_the_reason(stores, settings, texts, why):
    sources = {
        name: marked_texts(store) if texts == "there" else texts or TextSource()
        for name, store in stores.items()
    }
    evaluation = evaluate_head(LengthHead(), stores, settings, texts=sources).evaluation
    left_out = evaluation.details["valid"].left_out
    assert (left_out["bag_of_ngrams"], left_out["minimal_pairs"]) == (why, why)
    assert "bag_of_ngrams" not in evaluation.splits["valid"].judges


def test_without_the_pairs_of_the_head_there_are_no_ngrams(stores):
    head = LengthHead()
    head.record.config["data_sampling"]["pairwise"]["exclude_problems"] = "nowhere.txt"
    texts = {name: marked_texts(store) for name, store in stores.items()}
    left_out = (
        evaluate_head(head, stores, SETTINGS, texts=texts).evaluation.details["valid"].left_out
    )
    assert left_out["bag_of_ngrams"].startswith("the pairs of the head cannot be drawn again")
    assert "minimal_pairs" not in left_out


def test_problems_held_out_of_training_are_a_split_of_their_own(stores):
    names = sorted(set(stores["train"].samples["problem_id"].to_pylist()))
    holdout = choose_holdout(names, 0.25)
    evaluation = evaluate_head(LengthHead(holdout=holdout), stores, SETTINGS).evaluation
    counts = {name: split.counts.num_problems for name, split in evaluation.splits.items()}
    assert counts == {"train": 9, "train_holdout": 3, "valid": 6}
    assert set(evaluation.train_minus) == {"train_holdout", "valid"}


def test_only_the_splits_asked_for_have_details(stores):
    evaluation = evaluate_head(LengthHead(), stores, SETTINGS, detailed=["train"]).evaluation
    assert list(evaluation.details) == ["train"]


def test_pairs_of_one_feature_row_are_not_judged_and_said(stores):
    rows = np.arange(48)
    rows[:2] = 0  # the first pair of the first problem
    valid = replace_column(stores["valid"], "feature_row", pa.array(rows))
    whole = evaluate_head(LengthHead(), {"valid": stores["valid"]}, SETTINGS).evaluation
    cut = evaluate_head(LengthHead(), {"valid": valid}, SETTINGS).evaluation
    assert cut.splits["valid"].counts.num_pairs == whole.splits["valid"].counts.num_pairs - 1
    assert "1 pairs have the same tokens" in cut.details["valid"].left_out["equal_pairs"]
    assert "equal_pairs" not in whole.details["valid"].left_out


def test_statements_of_one_problem_id_are_judged_apart(stores):
    statements = np.arange(48) // 4 % 2
    valid = replace_column(stores["valid"], "prompt_tokens", pa.array(10 + statements))
    counts = evaluate_head(LengthHead(), {"valid": valid}, SETTINGS).evaluation
    assert counts.splits["valid"].counts.num_pairs == 12 * 2 * 2
    assert "6 of 6" in counts.details["valid"].left_out["pairs_of_two_statements"]


def with_authors(store, authors):
    column = pa.array([authors[place % len(authors)] for place in range(store.samples.num_rows)])
    return replace_samples(store, store.samples.append_column("author", column))


def test_the_author_is_a_shortcut_whose_prior_comes_from_train_alone(stores):
    # labels alternate, so on train the second author is always right; on valid the first is
    train = with_authors(stores["train"], ["weak", "strong"])
    valid = with_authors(stores["valid"], ["strong", "weak", None, "new"])
    found = evaluate_head(LengthHead(), {"train": train, "valid": valid}, SETTINGS)
    judges = found.evaluation.splits["valid"].judges
    # of four incorrect-correct pairs: 0 (misled), unknown over strong, weak over unknown, a tie
    assert judges["author_known"]["accuracy_over_pairs"].estimate == pytest.approx(0.125)
    assert found.evaluation.splits["train"].judges["author_known"]["auc"].estimate == 1.0
    details = found.evaluation.details["valid"]
    misled = details.author_prior_wrong
    assert misled.judges["author_known"]["accuracy_over_pairs"].estimate == 0.0
    assert misled.num_pairs == 6 * 16 * 3 // 4
    assert details.same_author is None  # no author has both labels


def test_pairs_of_one_author_are_measured_alone(stores):
    both = {name: with_authors(store, ["a", "a", "b", "b"]) for name, store in stores.items()}
    details = evaluate_head(LengthHead(), both, SETTINGS).evaluation.details["valid"]
    same = details.same_author
    assert same.num_pairs == 6 * 8  # of 16 pairs of a problem, those within a and within b
    assert same.judges["author_known"]["accuracy_over_pairs"].estimate == 0.5
    assert "same_author/accuracy_over_pairs" in {number.metric for number in details.numbers()}


def test_without_authors_on_train_the_shortcut_is_left_out_and_says_so(stores):
    valid = with_authors(stores["valid"], ["a", "b"])
    found = evaluate_head(LengthHead(), {"train": stores["train"], "valid": valid}, SETTINGS)
    assert "author_known" not in found.evaluation.splits["valid"].judges
    assert "train" in found.evaluation.details["valid"].left_out["author_known"]
