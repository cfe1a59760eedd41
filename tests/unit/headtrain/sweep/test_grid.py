import pytest

from featurize.errors import CriticError
from headtrain.sweep.grid import combine, parse_axis, to_overrides


def test_a_grid_is_every_combination_of_its_values() -> None:
    axes = [
        parse_axis("training.dropout=0.1,0.3"),
        parse_axis("features=mean.12,mean.12+last.24,all"),
        parse_axis("data_sampling.pairwise.difficulties=[a, b],null"),
    ]
    points = combine(axes)
    assert len(points) == 12
    assert points[3] == {
        "training.dropout": "0.1",
        "features": "mean.12+last.24",
        "data_sampling.pairwise.difficulties": "null",
    }
    assert to_overrides(axes, points[3])[:2] == [
        "training.dropout=0.1",
        "training.features=[mean.12,last.24]",
    ]
    assert to_overrides(axes, points[4])[1] == "training.features=null"
    assert to_overrides(axes, points[2])[2] == "data_sampling.pairwise.difficulties=[a, b]"
    assert combine([]) == [{}]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["training.dropout"], "--grid .*training.dropout.*key=value"),
        (["dropout=0.1,0.2"], "did you mean training.dropout"),
        (["runtime.seed=1,2"], "give that with --set"),
        (["training.dropout=0.1,,0.2"], "--grid .*0.1,,0.2.*key=value"),
        (["featurize.layers=1,2"], "--set"),
        (["training.dropout=0.1,0.1"], "twice"),
        (["features=a", "training.features=[b]"], "twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(CriticError, match=reason):
        combine([parse_axis(text) for text in texts])
