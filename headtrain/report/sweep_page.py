"""The page of a sweep: its points, the figure by layer, and the learning curve of its winner."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from featurize.io.figures import to_svg
from featurize.io.files import atomic_path
from headtrain.report.curve import curve_rows, make_curve_figure
from headtrain.report.sweep import make_sweep_figure
from headtrain.report.template import render
from headtrain.sweep.curve import CurveResult
from headtrain.sweep.result import CURVE_FILE, PAGE_FILE, RESULT_FILE, SweepResult, read_result


@dataclass(frozen=True, kw_only=True)
class SweepOnPage:
    """A sweep as a page shows it."""

    result: SweepResult
    curve: CurveResult | None
    name: str
    """Makes the ids of its figures unique on the page."""

    @classmethod
    def read(cls, folder: Path, name: str = "sweep") -> Self:
        """Read the results in the folder of a sweep.

        Raises:
            OSError: there is no sweep.json.
            ValueError: sweep.json or curve.json is not the result of a sweep.
        """
        path = folder / CURVE_FILE
        return cls(
            result=read_result(SweepResult, folder / RESULT_FILE),
            curve=read_result(CurveResult, path) if path.exists() else None,
            name=name,
        )

    @property
    def picture(self) -> str:
        """The accuracy by layer, as SVG."""
        return to_svg(make_sweep_figure(self.result), f"sweep-{self.name}")

    @property
    def curve_picture(self) -> str:
        """The learning curve, as SVG."""
        assert self.curve is not None, "only a sweep with a curve shows one"
        return to_svg(make_curve_figure(self.curve), f"curve-{self.name}")

    @property
    def curve_rows(self) -> dict[str, str]:
        """The numbers of the curve, by what they are of."""
        return curve_rows(self.curve) if self.curve is not None else {}


def read_own_sweep(head: str, name: str) -> SweepOnPage | None:
    """Read the sweep that a head won; None if it won none.

    Raises:
        ValueError: sweep.json is not the result of a sweep.
    """
    folder = Path(head).parent
    return SweepOnPage.read(folder, name) if (folder / RESULT_FILE).exists() else None


def write_sweep_page(folder: Path, experiment: str) -> Path:
    """Write the page into the folder of a sweep; one with the same content stays as it is."""
    path = folder / PAGE_FILE
    sweep = SweepOnPage.read(folder)
    page = render("sweep.html.j2", title=f"{experiment}: sweep", sweep=sweep).encode()
    if not path.exists() or path.read_bytes() != page:
        with atomic_path(path) as temporary:
            temporary.write_bytes(page)
    return path
