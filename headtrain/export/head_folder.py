"""Copies a head into a folder for others: its weights describe themselves, its paths are gone."""

import dataclasses
import hashlib
from pathlib import Path

import safetensors.torch

from featurize.io.files import atomic_path, write_json
from headtrain.head.checkpoint import RECORD_FILE, WEIGHTS_FILE, TrainedHead


def copy_head(head: TrainedHead, folder: Path) -> Path:
    """Write a head with metadata in its weights; values are the same, and `load_head` reads it.

    The metadata names the format, the head's type and inputs, and the fingerprints of recipe and
    features. The working folder of the run is left out, because it says nothing elsewhere. The
    distance to train is copied if it was kept.
    """
    record = head.record
    metadata = {
        "format": "pt",
        "critic_head_type": record.head_type,
        "critic_inputs": ",".join([*record.tensors, *(["likelihood"] * record.likelihood)]),
        "critic_num_members": str(record.num_members),
        "critic_recipe_fingerprint": record.recipe_fingerprint,
        "critic_store_fingerprint": record.store_fingerprint,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(head.model.saved_state(), metadata)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    if (distance := head.read_distance()) is not None:
        distance.write(folder, checksum)
    copied = dataclasses.replace(record, weights_checksum=checksum, folder="")
    write_json(folder / RECORD_FILE, dataclasses.asdict(copied))
    return folder
