"""Names prompts, outputs and samples by their content: equal texts, equal keys."""

from collections.abc import Iterable, Sequence

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_hexdigest

from featurize.data.fields import to_bytes
from featurize.data.memory import BoundedMemory

# NOTE: xxHash, because every output is hashed, and BLAKE2 takes ten times as long. It does not
# withstand an attacker, who could but make two texts of his own dataset count as one.
_prompt_keys: BoundedMemory[tuple[str, str], bytes] = BoundedMemory()


def prompt_key(instruction: str, input_text: str) -> bytes:
    """Return the 16 bytes that name a prompt.

    Raises:
        RowFault: UTF-8 cannot hold the instruction; asked once a prompt, not once a row.
    """
    prompt = (instruction, input_text)
    key = _prompt_keys.get(prompt)  # hundreds of samples share a prompt
    if key is None:
        content = to_bytes(instruction, "instruction") + b"\0" + input_text.encode()
        key = xxh3_128_digest(content)
        _prompt_keys.add(prompt, key, len(content))
    return key


def prompt_keys(instructions: Sequence[str], input_texts: Sequence[str]) -> list[bytes]:
    """Return the key of each prompt."""
    keys = list(map(_prompt_keys.get, zip(instructions, input_texts, strict=True)))
    if None in keys:
        return list(map(prompt_key, instructions, input_texts))
    return keys  # type: ignore[return-value]


def output_keys(outputs: Iterable[str]) -> list[bytes]:
    """Return the 16 bytes that name each output; UTF-8 must be able to hold them."""
    return list(map(xxh3_128_digest, map(str.encode, outputs)))


def default_problem_id(prompt: bytes) -> str:
    """Name a problem by the key of its prompt."""
    return prompt.hex()[:16]


def default_task_id(prompt: bytes, output: bytes) -> str:
    """Name a sample by its texts, not its label: a corrected label leaves the id as it is."""
    return xxh3_128_hexdigest(prompt + output)[:24]


def task_id_checks(task_ids: Sequence[bytes]) -> np.ndarray:
    """Hash ids, in UTF-8, so that hardly ever two get equal ones: uint64 [ids]."""
    return np.fromiter(map(xxh3_64_intdigest, task_ids), np.uint64, len(task_ids))
