"""Whether features were made as a configuration says: a head records what it was made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.config import Config
from configs.source import ConfigError


def refuse_other_recipe(config: Config, store: Path, recipe: Mapping[str, Any]) -> None:
    """Raises ConfigError when the store's recipe is not the configuration's.

    What only the backbone's files can tell, its digest and the resolved dtype, is left to
    `critic featurize`, which refuses to go on with a store of another fingerprint.
    """
    num_layers = int(recipe["backbone"]["layers"])
    layers = config.featurize.layers
    wanted = {
        "models.policy.name": (config.models.policy.name, recipe["backbone"]["name"]),
        "dataset.max_length": (config.dataset.max_length, recipe["max_length"]),
        "dataset.max_prompt_length": (config.dataset.prompt_limit, recipe["max_prompt_length"]),
        "featurize.layers": (
            list(range(num_layers + 1))
            if layers == "all"
            else sorted(int(layer) % (num_layers + 1) for layer in layers),
            recipe["layers"],
        ),
        "featurize.poolings": (sorted(config.featurize.poolings), sorted(recipe["poolings"])),
        "featurize.likelihood": (config.featurize.likelihood, recipe["likelihood"]),
        "featurize.storage_dtype": (config.featurize.storage_dtype, recipe["storage_dtype"]),
    }
    for key, (asked, found) in wanted.items():
        if asked != found:
            raise ConfigError(
                f"{store}: its features were made with {key} {found!r}, the config says {asked!r};"
                " give the config they were made with, or run `critic featurize --overwrite`"
            )
