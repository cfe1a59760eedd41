import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtrain.metrics.power_law import EXPONENTS, fit_power_laws

SIZES = np.array([10.0, 20.0, 40.0, 80.0, 160.0])


@given(
    ceiling=st.floats(0.6, 0.95),
    scale=st.floats(0.01, 0.1),
    exponent=st.sampled_from(list(EXPONENTS[10:30])),
)
def test_a_power_law_is_found_again_and_extrapolated(
    ceiling: float, scale: float, exponent: float
) -> None:
    accuracy = ceiling - scale * (SIZES / 160) ** -exponent
    law = fit_power_laws(SIZES, accuracy[None])
    expected = ceiling - scale * 2**-exponent
    assert law.predict(320)[0] == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_no_law_exceeds_one_or_falls_with_the_size(accuracy: list[float]) -> None:
    law = fit_power_laws(SIZES, np.array([accuracy]))
    assert law.ceiling[0] <= 1
    assert law.predict(320)[0] >= law.predict(160)[0]


def test_a_falling_curve_has_scale_zero() -> None:
    assert fit_power_laws(SIZES, np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])).scale[0] == 0


def test_a_curve_with_nan_gets_a_law_of_nan() -> None:
    law = fit_power_laws(SIZES, np.array([[np.nan] * 5, [0.5, 0.6, 0.65, 0.68, 0.7]]))
    assert np.isnan(law.predict(320)).tolist() == [True, False]


def test_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 different sizes, there are 2"):
        fit_power_laws(np.array([1.0, 2.0, 2.0]), np.zeros((1, 3)))
