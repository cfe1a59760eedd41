"""The limit of tokens for a solution and its statement."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from featurize.data.prepare.codecontests.problems import Solution
from featurize.data.prompt import RESPONSE_MARK, Encoder
from featurize.errors import CriticError
from featurize.model.device import resolve_device, resolve_dtype
from featurize.model.source import find_backbone, load_tokenizer
from featurize.settings import BackboneSettings


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """Counts tokens as featurize does; a statement is encoded once for all its solutions."""

    encoder: Encoder  # its max_length is the limit
    digest: str  # of the tokenizer

    @classmethod
    def load(cls, backbone: BackboneSettings, cache_dir: Path, max_tokens: int) -> "TokenLimit":
        """Limit the tokens of prompt and output together, by the tokenizer of `backbone`."""
        # On the device of this machine, which often has no GPU.
        dtype = resolve_dtype(backbone.dtype, resolve_device("auto"))
        source = find_backbone(backbone, cache_dir, dtype)
        return cls.create(load_tokenizer(source, backbone), source.tokenizer_digest, max_tokens)

    @classmethod
    def create(
        cls, tokenizer: PreTrainedTokenizerBase, digest: str, max_tokens: int
    ) -> "TokenLimit":
        """Limit the tokens by a loaded tokenizer.

        Raises:
            CriticError: the limit leaves no room for a statement.
        """
        tail = tokenizer(RESPONSE_MARK, add_special_tokens=False)["input_ids"]
        if max_tokens < len(tail) + 2:
            raise CriticError(
                f"prepare.codecontests.max_tokens is {max_tokens}; the response mark alone has "
                f"{len(tail)} tokens: raise it, or write null for no limit"
            )
        encoder = Encoder(
            tokenizer=tokenizer, max_length=max_tokens, max_prompt_length=max_tokens - 1
        )
        return cls(encoder=encoder, digest=digest)

    def __call__(self, statement: str, solutions: list[Solution]) -> list[Solution]:
        """Select the solutions that fit into the limit behind their statement."""
        prompt = self.encoder.encode_prompt(statement)
        if prompt.is_truncated:
            return []
        room = self.encoder.max_length - len(prompt.ids)
        # A token has at least one ASCII character, except one that may begin the text: most
        # solutions are short enough to need no tokenizer, which takes most of the time.
        unsure = [s for s in solutions if not (s.text.isascii() and len(s.text) < room)]
        if not unsure:
            return solutions
        encoded = self.encoder.encode_outputs([s.text for s in unsure], len(prompt.ids))
        too_long = {id(s) for s, ids in zip(unsure, encoded, strict=True) if ids.is_truncated}
        return [s for s in solutions if id(s) not in too_long]
