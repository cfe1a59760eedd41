"""A head with the project it is used in: that of its own record, or the one configured."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from configs.config import Config
from configs.loader import load_recorded
from configs.options import Chosen
from configs.project import Project
from featurize.settings import BackboneSettings

if TYPE_CHECKING:
    from headtrain.head.checkpoint import TrainedHead

_POLICY = "models.policy"
_LOCATION = ("path", "tokenizer_path", "revision")


@dataclass(frozen=True, kw_only=True)
class HeadProject:
    """A head, the project it is used in, and the places where its backbone may be."""

    head: "TrainedHead"
    project: Project
    places: tuple[BackboneSettings, ...]
    """Most likely first."""

    @classmethod
    def load(cls, head: str | None, chosen: Chosen) -> Self:
        """Find the head named, else that of the configured experiment.

        Without --config, the settings are those the head was trained with, overrides on top.

        Raises:
            ValueError: there is no such head, or the configuration cannot be used.
        """
        from headtrain.head.checkpoint import load_head
        from headtrain.scoring.provenance import Provenance

        if chosen.config is not None or head is None:
            project = chosen.project()
            trained = load_head(head or project.layout.checkpoint_dir)
        else:
            trained = load_head(head)
        if chosen.config is None:
            name = f"{trained.path}/head.json"
            project = Project.of(load_recorded(trained.record.config, name, chosen.overrides))
        places = _places(trained, project.settings, chosen)
        # Rows are read as the head's own prompts are.
        prompt = Provenance.of(trained).prompt
        project = replace(project, settings=replace(project.settings, prompt=prompt))
        return cls(head=trained, project=project, places=places)


def _places(head: "TrainedHead", settings: Config, chosen: Chosen) -> tuple[BackboneSettings, ...]:
    """The recorded place and the one the user names; the latter first if an override names it.

    A head from elsewhere cannot allow a model's code to run: only the user's own settings can.
    """
    from headtrain.scoring.provenance import Provenance

    named = settings.models.policy
    overridden = {text.partition("=")[0] for text in chosen.overrides}
    has_config = chosen.config is not None
    if not has_config and f"{_POLICY}.trust_remote_code" not in overridden:
        named = replace(named, trust_remote_code=False)
    recorded = replace(Provenance.of(head).backbone, trust_remote_code=named.trust_remote_code)
    if overridden & {f"{_POLICY}.{name}" for name in _LOCATION}:
        return (named,)
    is_elsewhere = any(getattr(named, name) != getattr(recorded, name) for name in _LOCATION)
    return (named, recorded) if has_config and is_elsewhere else (recorded,)
