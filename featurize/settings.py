"""Settings of stage 1: the backbone, the dataset, and the features to store."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

_STRICT_KEYS = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(gt=0)]
Split: TypeAlias = Literal["train", "valid", "test"]
Pooling: TypeAlias = Literal["mean", "last", "max", "std", "first", "delta"]
"""The keys of `featurize.model.pooling.POOLINGS`, which needs torch; a test keeps them equal."""

_NO_VARIABLES = {
    "messages", "conversation", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
"""Arguments of apply_chat_template that do not reach a template, or that the prompts decide."""

SPLITS: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}
"""The splits by every name they are given."""


def to_split(name: str) -> Split:
    """The split called `name`; `validation` is a synonym of `valid`."""
    if name not in SPLITS:
        raise ValueError(f"split {name!r} is unknown; use train, valid or test")
    return SPLITS[name]


def to_folder_name(name: str) -> str:
    """Check that `name` can be the name of a folder; ValueError if not."""
    if not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\:\0\n"):
        raise ValueError(f"{name!r} cannot name a folder; use letters, digits, '-', '_' and '.'")
    return name


def with_home(path: str) -> str:
    """Replace a leading `~` by the home folder; unchanged if there is no such user."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path


FolderName = Annotated[str, AfterValidator(to_folder_name)]
HomePath = Annotated[str, AfterValidator(with_home)]
SomePath = Annotated[str, Field(min_length=1), AfterValidator(with_home)]
"""NOTE: the length comes first; after a function, pydantic counts the "items" of a text."""
Paths: TypeAlias = HomePath | tuple[HomePath, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class BackboneParams:
    """Expected properties of the backbone; each given number is checked after loading."""

    dim: PositiveInt | None = None
    """Hidden size: the width of a feature."""

    n_layers: PositiveInt | None = None
    """Transformer layers, as the checkpoint counts them."""

    n_heads: PositiveInt | None = None
    """Attention heads of a layer."""

    n_kv_heads: PositiveInt | None = None
    """Key/value heads of a layer, fewer than n_heads under grouped-query attention."""

    n_future_tokens: PositiveInt | None = None
    """Tokens a multi-token-prediction checkpoint predicts at once; 1 for a plain model."""

    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward layers."""

    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Base of the rotary position embedding."""

    vocab_size: PositiveInt | None = None
    """Rows of the embedding table."""

    def __post_init__(self) -> None:
        if self.n_heads and self.n_kv_heads and self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads {self.n_kv_heads} does not divide n_heads {self.n_heads}; "
                "every key/value head serves the same number of heads"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class BackboneSettings:
    """The frozen language model whose hidden states become features."""

    name: str
    """Its name in reports and manifests."""

    path: SomePath
    """Model folder, hub id, .gguf file, llama-MTP folder, or `package:<installed distribution>`."""

    tokenizer_path: HomePath | None = None
    """Folder of its tokenizer; null: `path`."""

    params: BackboneParams | None = None
    """Expected properties of the model; null: nothing is checked."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the forward pass; auto follows runtime.mixed_precision and the device."""

    revision: str | None = None
    """Commit, tag or branch of a hub id; null: its default branch."""

    trust_remote_code: bool = False
    """Run the Python code in a model folder."""

    quantization: Literal["4bit", "8bit"] | None = None
    """Quantise weights while loading, if the device can; null: no."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """random: the untrained model, initialised with a fixed seed; a baseline."""

    mtp_output: Literal["next_token", "trunk"] = "next_token"
    """For a llama-MTP checkpoint: all layers of next-token prediction, or the trunk alone."""

    def __post_init__(self) -> None:
        is_gguf = self.path.endswith(".gguf") or self.path.startswith("package:")
        if is_gguf and self.quantization is not None:
            raise ValueError(
                f"quantization {self.quantization!r} and path {self.path!r} contradict: a .gguf "
                "file has its own quantization; set quantization to null"
            )
        if is_gguf and self.revision is not None:
            raise ValueError(
                f"revision {self.revision!r} and path {self.path!r} contradict: only a hub id has "
                "revisions; set revision to null"
            )
        if self.quantization is not None and self.weights == "random":
            raise ValueError(
                f"quantization {self.quantization!r} and weights 'random' contradict: what is "
                "drawn is not loaded; set quantization to null"
            )
        if self.quantization is not None and self.dtype == "float32":
            raise ValueError(
                f"quantization {self.quantization!r} and dtype 'float32' contradict: quantized "
                "weights are computed with in 16 bits; set dtype to auto or quantization to null"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class ModelsSettings:
    """The models of a run: one, the policy."""

    policy: BackboneSettings
    """The frozen backbone."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DatasetSettings:
    """The samples, and how much of each is read."""

    name: str
    """Its name in reports."""

    train: Paths | None = None
    """Samples the head learns from: a file, a glob, a URI, or a list of them."""

    validation: Paths | None = None
    """Samples of other problems, which choose the best head."""

    test: Paths | None = None
    """Samples of other problems again, for the final number."""

    max_length: Annotated[int, Field(ge=2)] = 2048
    """Tokens of prompt and output together; longer outputs are truncated on the right."""

    max_prompt_length: PositiveInt | None = None
    """Tokens of the prompt, truncated once per problem; null: three quarters of max_length."""

    @field_validator("train", "validation", "test")
    @classmethod
    def _refuse_empty_paths(cls, paths: Paths | None) -> Paths | None:
        names = (paths,) if isinstance(paths, str) else paths
        if names is not None and not (names and all(names)):
            raise ValueError(f"{paths!r} names no file; write a path, or null for none")
        return paths

    def __post_init__(self) -> None:
        if self.max_prompt_length is not None and self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} leaves an output no room within "
                f"max_length {self.max_length}; make it smaller"
            )

    @property
    def prompt_limit(self) -> int:
        """Tokens a prompt may have: max_prompt_length, or three quarters of max_length."""
        return self.max_prompt_length or max(1, self.max_length * 3 // 4)

    def path_of(self, split: str) -> Paths:
        """The file, glob or files of `split`: train, valid (or validation), test."""
        key = "validation" if to_split(split) == "valid" else split
        paths: Paths | None = getattr(self, key)
        if paths is None:
            raise ValueError(f"dataset.{key} is not set; name its file: --set dataset.{key}=PATH")
        return paths


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class PromptSettings:
    """The text around a statement and an output, as the backbone reads it."""

    format: Literal["alpaca", "chat", "raw", "jinja"] = "alpaca"
    """alpaca; chat: the tokenizer's own chat template; raw: none; jinja: the file of `template`."""

    template: HomePath | None = None
    """File of a chat template for format jinja, or its text; null: none."""

    system: str | None = None
    """System message of conversations that have none; null: what the template does without one."""

    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of a chat template, e.g. {enable_thinking: false}; null: none."""

    end: Literal["none", "eos", "turn"] = "none"
    """What follows an output: nothing, the end-of-text token, or the template's end of a turn."""

    think: Literal["keep", "strip"] = "keep"
    """strip: remove the thinking before `</think>` from outputs."""

    question: str | None = None
    """A question about the output, asked after it; null: none."""

    answers: tuple[str, str] = (" Yes", " No")
    """Answers to the question, one token each: that of correct outputs, and the other."""

    @field_validator("system", "question", "template")
    @classmethod
    def _refuse_blank(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError(f"{text!r} is empty; write a text, or null for none")
        return text

    @field_validator("chat_template_kwargs")
    @classmethod
    def _refuse_no_variables(cls, variables: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, value in (variables or {}).items():
            if name in _NO_VARIABLES:
                raise ValueError(
                    f"{name!r} is an argument of transformers and no variable of a template; leave"
                    " it out"
                )
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{name!r} is {value!r}, which JSON cannot hold, as NaN or inf; write a number"
                ) from None
        return variables

    def __post_init__(self) -> None:
        if (self.format == "jinja") != (self.template is not None):
            raise ValueError(
                f"format {self.format!r} and template {self.template!r} contradict: only"
                " the format jinja reads a template file; set both or neither"
            )
        for name in ("system", "chat_template_kwargs"):
            if getattr(self, name) and not self.has_turns:
                raise ValueError(
                    f"format {self.format!r} and {name} {getattr(self, name)!r} contradict: only a"
                    " chat template reads it; set format to chat or jinja, or leave it out"
                )
        if self.end == "turn" and not self.has_turns:
            raise ValueError(
                f"format {self.format!r} and end 'turn' contradict: only a chat template ends a"
                " turn; set format to chat or jinja, or end to eos"
            )
        if self.answers[0] == self.answers[1]:
            raise ValueError(f"answers are both {self.answers[0]!r}; they must differ")

    @property
    def has_turns(self) -> bool:
        """Whether prompts are conversations, rendered by a chat template."""
        return self.format in ("chat", "jinja")

    @property
    def identity(self) -> dict[str, Any]:
        """All that a feature depends on but the template's text; empty for the defaults."""
        default = PromptSettings()
        names = ["format", "system", "chat_template_kwargs", "end", "think", "question"]
        if self.question is not None:
            names.append("answers")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in names
            if (value := getattr(self, name)) != getattr(default, name) or name == "answers"
        }


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class FeaturizeSettings:
    """Which features to store, and how the work is divided."""

    layers: tuple[int, ...] | Literal["all"] = (-1,)
    """Layers whose hidden states are pooled: 0 the embeddings, k after block k, -1 the last."""

    poolings: tuple[Pooling, ...] = ("mean",)
    """How the output tokens of a sample become one vector; one tensor per layer and pooling."""

    likelihood: bool = False
    """Also store the backbone's log-probabilities and entropy of the output."""

    segments: Annotated[int, Field(ge=2, le=256)] | None = None
    """Also store the mean of each of K equal stretches of an output, per layer; null: no."""

    storage_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the stored features."""

    token_budget: PositiveInt | None = None
    """Tokens of one forward pass, which bound the memory; null: chosen by device and backbone."""

    unit_tokens: PositiveInt = 65536
    """Estimated tokens of one unit of work, which becomes one shard."""

    forward: Literal["auto", "packed", "padded"] = "auto"
    """packed computes each prompt once; padded is the plain batch; auto: packed if they agree."""

    compile: bool = False
    """Compile blocks and likelihood on a GPU (torch.compile), if the features agree."""

    workers: PositiveInt | None = None
    """Processes on this machine; null: chosen from its cores and devices."""

    store_name: FolderName | None = None
    """Folder of the features, which experiments can share; null: experiment.name."""

    @field_validator("layers", "poolings")
    @classmethod
    def _refuse_none_or_twice(cls, names: object) -> object:
        if isinstance(names, tuple):
            if not names:
                raise ValueError("the list is empty: nothing would be stored; name at least one")
            if len(set(names)) != len(names):
                raise ValueError(f"{list(names)} names one twice; name each once")
        return names


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class FsdpSettings:
    """How a backbone is sharded over devices; read only with shard_backbone."""

    sharding_strategy: Literal[
        "FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"
    ] = "FULL_SHARD"
    """FULL_SHARD gathers a layer while it runs; HYBRID_SHARD does so within each machine."""

    group_size: PositiveInt | None = None
    """Devices that share one backbone; null: all, or with HYBRID_SHARD those of a machine."""

    mixed_precision: bool = True
    """Whether dtype auto may choose 16 bits, like runtime.mixed_precision."""

    cpu_offload: bool = False
    """Keep the shards in host memory; no effect on the CPU."""

    activation_checkpointing: bool = False
    """No effect: a frozen backbone has no backward pass."""

    def __post_init__(self) -> None:
        shards_all = self.sharding_strategy in ("FULL_SHARD", "SHARD_GRAD_OP")
        if self.group_size is not None and not shards_all:
            raise ValueError(
                f"group_size {self.group_size} and sharding_strategy {self.sharding_strategy!r} "
                "contradict: that strategy knows its groups; set group_size to null"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DistributedSettings:
    """How the backbone is spread over devices; samples are always shared among the ranks."""

    shard_backbone: bool = False
    """Shard the backbone over devices as `fsdp` says, if it does not fit one device."""

    tensor_parallel_size: PositiveInt = 1
    """Devices that compute each layer together, if the backbone does not fit one device."""

    max_restarts: Annotated[int, Field(ge=0)] = 0
    """Times all processes restart after one has died; torchrun has its own option."""

    fsdp: FsdpSettings | None = None
    """How shard_backbone shards; null: its defaults."""

    def __post_init__(self) -> None:
        if self.shard_backbone and self.tensor_parallel_size > 1:
            raise ValueError(
                f"shard_backbone true and tensor_parallel_size {self.tensor_parallel_size} "
                "contradict: a backbone is cut one way or the other; set shard_backbone to false "
                "or tensor_parallel_size to 1"
            )

    @property
    def is_shared(self) -> bool:
        """Whether the backbone is spread over several devices."""
        return self.shard_backbone or self.tensor_parallel_size > 1

    @property
    def mixed_precision(self) -> bool:
        """Whether `fsdp` lets dtype auto choose 16 bits."""
        return not self.shard_backbone or self.fsdp is None or self.fsdp.mixed_precision


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class RuntimeSettings:
    """Device, seed and precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if there is one."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of the head's initial weights, its dropout and the order of its batches."""

    mixed_precision: bool = True
    """Whether dtype auto may choose 16 bits if the device is faster with them."""
