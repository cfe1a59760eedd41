"""The command a store remembers, for whoever has to run it again."""

import pytest

from featurize.run.session import to_repeat


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("featurize --split train", "critic featurize --split train"),
        ("featurize --overwrite --split train --repair", "critic featurize --split train"),
        ("featurize --plan-only --debug --split dev", "critic featurize --split dev"),
        (
            "featurize --set mlflow.tracking_uri=http://me:secret@host --set a.b=[1,-1] --split x",
            "critic featurize --set 'a.b=[1,-1]' --split x",
        ),
        (
            "featurize --set mlflow.a=1 --split x --set mlflow.b=2",
            "critic featurize --split x",
        ),
    ],
)
def test_what_is_meant_for_once_or_secret_is_left_out(arguments: str, expected: str) -> None:
    assert to_repeat(arguments.split()) == expected
