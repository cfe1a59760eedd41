"""Whether features were made as a configuration says: a head records what it was made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.config import Config
from configs.source import ConfigError


def refuse_other_recipe(config: Config, store: Path | str, recipe: Mapping[str, Any]) -> None:
    """Raises ConfigError when the store's recipe is not the configuration's.

    What only the backbone's files can tell, its digest, layers and dtype, is left to
    `critic featurize`, which refuses to go on with a store of another fingerprint.
    """
    settings = config.featurize
    wanted: dict[str, Any] = {
        "dataset.max_length": config.dataset.max_length,
        "dataset.max_prompt_length": config.dataset.prompt_limit,
        "featurize.poolings": set(settings.poolings),
        "featurize.likelihood": settings.likelihood,
        "featurize.storage_dtype": settings.storage_dtype,
        "models.policy.weights": config.models.policy.weights,
    }
    recipe = {"weights": "pretrained", **recipe}  # a recipe tells only of others
    for key, asked in wanted.items():
        found = recipe.get(key.rpartition(".")[2], asked)
        if asked != (set(found) if isinstance(asked, set) else found):
            raise ConfigError(
                f"{store}: its features were made with {key} {found!r}, the config says {asked!r};"
                " give the config they were made with, or run `critic featurize --overwrite`"
            )
