"""What follows a featurize job: a terminal, or the process that started a worker."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from featurize.run.plan import FeaturizePlan


class Reporter(Protocol):
    """Follows a job."""

    def planned(self, plan: "FeaturizePlan") -> None:
        """The plan, before anything is computed."""

    def note(self, text: str) -> None:
        """One line worth reading."""

    def advance(self, tokens: int) -> None:
        """Unique tokens that all ranks have computed so far."""
