"""Problems are split whole, by seed alone."""

import random

from featurize.data.prepare.split import split_problems

IDS = [f"p{number}" for number in range(20)]


def test_every_problem_gets_one_split_and_the_shares_hold():
    splits = split_problems(IDS, fractions={"train": 0.7, "valid": 0.3, "test": 0.0}, seed=0)
    assert sorted(splits) == sorted(IDS)
    assert list(splits.values()).count("train") == 14
    assert list(splits.values()).count("valid") == 6


def test_the_order_of_the_problems_plays_no_part():
    shuffled = random.Random(3).sample(IDS, len(IDS))
    fractions = {"train": 0.5, "valid": 0.25, "test": 0.25}
    assert split_problems(IDS, fractions=fractions, seed=1) == split_problems(
        [*shuffled, *shuffled], fractions=fractions, seed=1
    )


def test_another_seed_splits_otherwise():
    fractions = {"train": 0.5, "valid": 0.5}
    assert split_problems(IDS, fractions=fractions, seed=1) != split_problems(
        IDS, fractions=fractions, seed=2
    )


def test_no_problem_is_lost_to_rounding():
    for count in range(12):
        ids = IDS[:count]
        splits = split_problems(ids, fractions={"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, seed=0)
        assert set(splits) == set(ids)


def test_no_problems_give_no_splits():
    assert split_problems([], fractions={"train": 1.0}, seed=0) == {}
