"""Values along an output as a line of a few points: one scale for the outputs of a problem."""

from collections.abc import Mapping

from markupsafe import Markup

WIDTH, HEIGHT, EDGE = 64, 18, 3

_LINE = Markup(
    '<svg class="along" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
    '<polyline points="{}"/><circle cx="{}" cy="{}" r="2.2"/></svg>'
)


def draw_along(along: Mapping[float, float], bounds: tuple[float, float]) -> Markup:
    """Draw values by the share of the output they were computed from, as an SVG element.

    The line takes the text colour of its surroundings. Empty without two values to join.

    Args:
        along: value of each prefix by its share of the output, ascending, the last one 1.
        bounds: lowest and highest value of the drawing.
    """
    if len(along) < 2:
        return Markup("")
    points = _points(along, bounds)
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    says = f"value along the output: {say_along(along)}"
    end = (f"{number:.1f}" for number in points[-1])
    return _LINE.format(WIDTH, HEIGHT, says, says, listed, *end)


def say_along(along: Mapping[float, float]) -> str:
    """List the values: `25% -0.31, 50% +0.10, ...`."""
    return ", ".join(f"{share:.0%} {value:+.2f}" for share, value in along.items())


def _points(along: Mapping[float, float], bounds: tuple[float, float]) -> list[tuple[float, float]]:
    """Places of the values: the first prefix on the left, the highest value on top."""
    first, (low, high) = min(along), bounds
    width, height, span = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE, high - low
    return [
        (
            EDGE + width * (share - first) / (1 - first),
            EDGE + height * ((high - value) / span if span else 0.5),
        )
        for share, value in along.items()
    ]
