"""The settings of stage 2: pairs, training, checkpoints, evaluation and tracking."""

from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from featurize.settings import HomePath, PositiveInt

_STRICT_KEYS = ConfigDict(extra="forbid")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Share1 = Annotated[float, Field(gt=0, le=1)]

CLOSED_FORMS = ("contrast", "centroid")
"""Types of heads that are computed from the pairs in one step."""

SEGMENT_HEADS = ("gated", "attention")
"""Types of heads on the segments of outputs."""


def _as_name(name: object) -> object:
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


# Names are text elsewhere, but YAML reads 800 and 1200 as numbers. A float is refused: its text
# is not what was written (1e3 becomes 1000.0).
_Name = Annotated[str, BeforeValidator(_as_name)]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class PairwiseSettings:
    """How (correct, incorrect) pairs of one problem are drawn."""

    n_pairs: PositiveInt = 50_000
    """Number of pairs to draw; all pairs if the data has fewer."""

    strategy: Literal["balanced", "uniform"] = "balanced"
    """balanced: all problems equally likely; uniform: all combinations equally likely."""

    max_pairs_per_problem: PositiveInt | None = None
    """Most pairs per problem; null is no limit."""

    balance: Literal["source"] | None = None
    """source: the same number of pairs of every metadata.source until they run out; null: none."""

    length_matched: bool = False
    """Pair only outputs of similar length; the same as `length` in match."""

    match: tuple[Literal["length", "author"], ...] = ()
    """What both outputs of a pair must share: the bin of output tokens, the author."""

    length_bin_tokens: PositiveInt = 32
    """Width of the bins in which lengths match, in tokens."""

    difficulties: dict[_Name, NonNegative] | tuple[_Name, ...] | None = None
    """Weight of each difficulty, or a list of those to use; all others are excluded."""

    exclude_problems: tuple[_Name, ...] | HomePath | None = None
    """Problems to exclude: their ids, or a file with one id per line."""

    @property
    def matches_length(self) -> bool:
        """Whether both outputs of a pair must be of similar length."""
        return self.length_matched or "length" in self.match

    @model_validator(mode="after")
    def _refuse_no_difficulty(self) -> Self:
        names = self.difficulties
        if names is not None and not any(names.values() if isinstance(names, dict) else names):
            raise ValueError(
                f"difficulties {names!r} leaves no problem; name one with a weight above 0, or "
                "write null for all"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DataSamplingSettings:
    """The samples that the head is trained and validated on."""

    sampling_method: str = "pairwise"
    """pairwise: one correct and one incorrect output of the same problem."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of pair sampling and of the validation subset."""

    val_n_samples: PositiveInt | None = 1000
    """Most validation samples during training, in whole problems; null is all."""

    pairwise: PairwiseSettings = field(default_factory=PairwiseSettings)
    """How the pairs are drawn."""

    @field_validator("sampling_method")
    @classmethod
    def _refuse_other_methods(cls, method: str) -> str:
        if method == "problems":
            raise ValueError(
                "sampling_method 'problems' was removed: its final shuffle split the pairs of a "
                "problem; use 'pairwise'"
            )
        if method != "pairwise":
            raise ValueError(f"sampling_method {method!r} is unknown; use 'pairwise'")
        return method


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class SchedulerSettings:
    """The learning rate schedule."""

    type: Literal["cosine", "constant"] = "cosine"
    """cosine: a warm-up, then half a cosine; constant: a warm-up, then constant."""

    warmup_ratio: Share = 0.05
    """Share of the optimizer steps in the warm-up from zero."""

    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Final learning rate of the cosine, as a share of the peak."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class TrainingSettings:
    """The value head and its training loop."""

    loss_type: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: -log sigmoid(V+ - V-); pointwise: a loss on each sample's label (the baseline)."""

    pointwise_loss: Literal["bce", "mse"] = "bce"
    """The loss of loss_type pointwise."""

    margin: NonNegative = 0.0
    """Pairwise: wanted difference between the values of a pair."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Pairwise: assumed share of pairs with swapped labels."""

    center_coefficient: NonNegative = 0.0
    """Pairwise: weight of the mean of (V+ + V-)^2, which keeps values around 0."""

    pair_weights: Literal["pairs", "problems"] = "pairs"
    """Pairwise: give every pair or every problem the same weight in the loss."""

    batching: Literal["pairs", "problems"] = "pairs"
    """Pairwise: batches of random pairs, or of whole problems (about batch_size pairs)."""

    problem_pairs: Literal["sampled", "all"] = "sampled"
    """With batching problems: the drawn pairs, or all pairs of their samples."""

    n_epochs: Positive = 1.0
    """Epochs over the drawn pairs; may be a fraction."""

    batch_size: PositiveInt = 32
    """Pairs per forward pass (two samples each)."""

    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step."""

    trunk_learning_rate: float = 0.0
    """Always 0: the backbone is frozen."""

    value_head_learning_rate: Positive = 1e-3
    """Peak learning rate of the head."""

    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (AdamW)."""

    max_grad_norm: Positive | None = 1.0
    """Largest gradient norm; larger gradients are clipped. null is off."""

    num_unfrozen_layers: int = 0
    """Always 0: the backbone is frozen."""

    value_head_type: Literal["mlp", "linear", "contrast", "centroid", "gated", "attention"] = "mlp"
    """mlp: hidden -> hidden/8 -> hidden/16 -> 1; linear; closed forms, without epochs: contrast,
    centroid; or heads on the segments of outputs: gated, attention."""

    segment_value: Literal["linear", "mlp"] = "linear"
    """Gated and attention: how the value of a state is computed."""

    prefixes: tuple[Share1, ...] | None = None
    """Shares of an output to train on, e.g. [0.25, 0.5, 1.0], from segments; null: all of it."""

    centre: Literal["none", "problem", "author"] = "none"
    """Linear heads: subtract from train features what outputs of a problem, or author, share."""

    contrast: Literal["mean", "lda", "pca"] = "mean"
    """Direction of the pairs' differences: their mean, Fisher's, or their first component."""

    contrast_shrinkage: Annotated[float, Field(gt=0, le=1)] | None = None
    """Contrast lda: share of the identity in the second moment; null: by the data (OAS)."""

    value_head_width: Annotated[int, Field(ge=2)] | None = None
    """Units of an mlp's first layer; the second has half. null: hidden/8."""

    normaliser: Literal["standardize", "tensor", "none"] = "standardize"
    """Scale features to mean 0 and deviation 1: per feature, per tensor, or not at all."""

    dropout: Share = 0.3
    """Dropout after each activation of the mlp head."""

    log_interval: PositiveInt = 10
    """Optimizer steps between two log entries."""

    features: list[str] | None = None
    """Store tensors that the head reads, e.g. [mean.12, last.24]; null is all."""

    feature_mix: Literal["concat", "mix"] = "concat"
    """concat: concatenate the tensors; mix: a learned mix, with layers sized for one tensor."""

    likelihood: bool | None = None
    """Also read the backbone's log-probabilities of the output; null: if the store has them."""

    max_feature_memory_gb: NonNegative | None = None
    """Features kept in memory; the rest is mapped from a file. null: most of the free memory."""

    likelihood_direct: bool = True
    """Add a linear term of the log-probabilities to the value: four features among thousands
    have little effect otherwise."""

    early_stopping_patience: PositiveInt | None = None
    """Stop after this many validations without improvement; null is off."""

    lr_scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    """The learning rate schedule."""

    @property
    def is_closed_form(self) -> bool:
        """Whether the head is computed from the pairs in one step."""
        return self.value_head_type in CLOSED_FORMS

    @property
    def is_on_segments(self) -> bool:
        """Whether the head reads the segments of outputs."""
        return self.value_head_type in SEGMENT_HEADS

    @property
    def has_mlp(self) -> bool:
        """Whether the head has hidden layers."""
        return self.value_head_type == "mlp" or (
            self.is_on_segments and self.segment_value == "mlp"
        )

    @field_validator("prefixes")
    @classmethod
    def _refuse_bad_prefixes(cls, shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if shares is not None and (list(shares) != sorted(set(shares)) or shares[-1:] != (1.0,)):
            raise ValueError(
                f"prefixes {list(shares)} must ascend and end with 1.0, the whole output"
            )
        return shares

    @field_validator("trunk_learning_rate", "num_unfrozen_layers")
    @classmethod
    def _refuse_backbone_training(cls, value: float) -> float:
        if value != 0:
            raise ValueError(
                f"{value} is not supported: the backbone is frozen and its features are cached "
                "before training; set it to 0"
            )
        return value

    @field_validator("features")
    @classmethod
    def _refuse_bad_features(cls, names: list[str] | None) -> list[str] | None:
        if names is None:
            return None
        if len(set(names)) != len(names):
            raise ValueError(f"features {names} names a tensor twice; name each once")
        return names

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.features == [] and self.likelihood is False:
            raise ValueError(
                "features is empty and likelihood is false: the head would read nothing; name a "
                "store tensor or set likelihood to true"
            )
        self._check_segments()
        if self.centre != "none" and self.value_head_type not in ("linear", *CLOSED_FORMS):
            raise ValueError(
                f"centre {self.centre!r} and value_head_type {self.value_head_type!r} contradict: "
                "one output is scored alone, where only the order by a linear head is that of "
                "centred features; set value_head_type to linear, contrast or centroid"
            )
        if self.value_head_width is not None and not self.has_mlp:
            raise ValueError(
                f"value_head_width {self.value_head_width} is an option of value_head_type mlp, "
                f"not {self.value_head_type}; leave it out"
            )
        if self.is_closed_form and self.loss_type != "pairwise":
            raise ValueError(
                f"value_head_type {self.value_head_type} is fitted to pairs, not by the loss_type "
                f"{self.loss_type}; set loss_type to pairwise"
            )
        names = ("margin", "label_smoothing", "center_coefficient", "pair_weights", "batching")
        changed = [name for name in names if getattr(self, name) not in (0, "pairs")]
        if self.loss_type == "pointwise" and changed:
            raise ValueError(
                f"{changed[0]} {getattr(self, changed[0])!r} is an option of loss_type pairwise, "
                "not pointwise; leave it out"
            )
        if self.problem_pairs == "all" and self.batching != "problems":
            raise ValueError(
                "problem_pairs 'all' needs batching 'problems': random pairs are drawn one by one"
            )
        return self

    def _check_segments(self) -> None:
        """Raise ValueError for settings that a head on segments, or any other, does not have."""
        if self.segment_value != "linear" and not self.is_on_segments:
            raise ValueError(
                f"segment_value {self.segment_value!r} is an option of value_head_type gated and "
                f"attention, not {self.value_head_type}; leave it out"
            )
        if self.is_on_segments and self.feature_mix != "concat":
            raise ValueError(
                f"feature_mix {self.feature_mix!r} and value_head_type {self.value_head_type!r} "
                "contradict: the head weighs segments itself; set feature_mix to concat"
            )
        if self.likelihood and (self.is_on_segments or self.prefixes):
            what = "prefixes" if self.prefixes else f"value_head_type {self.value_head_type!r}"
            raise ValueError(
                f"likelihood true and {what} contradict: segments do not have its columns; set "
                "likelihood to false"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class CheckpointSettings:
    """Which heads of a run are saved, and where."""

    save_dir: HomePath
    """Folder of the run's checkpoints."""

    save_checkpoint_every: Positive | None = 0.2
    """Epochs between two checkpoints, each with a validation; null: only at the end."""

    save_best: bool = True
    """Save the head with the highest validation accuracy over problems."""

    save_final: bool = True
    """Save the head of the last step."""

    save_total_limit: PositiveInt | None = 2
    """Most step checkpoints kept (best and final are never deleted); null is all."""

    s3_upload: bool = False
    """Copy best and final to s3_uri when they are written."""

    s3_uri: str | None = None
    """Target of the copies: any URI that fsspec supports, e.g. s3://bucket/critic."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if not (self.save_best or self.save_final):
            raise ValueError(
                "save_best and save_final are both false: the run would leave no head; set one "
                "of them to true"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class EvaluationSettings:
    """What a head is evaluated on, and the uncertainty of the results."""

    train_holdout: Share = 0.0
    """Share of the train problems held out of training and scored in addition to validation."""

    bootstrap_rounds: PositiveInt = 1000
    """Bootstrap resamples of the problems for each interval."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of the intervals."""

    length_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Largest relative difference in length between outputs of about the same length."""

    minimal_edit: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Minimal pairs: largest share of the characters that differ."""

    most_texts: PositiveInt | None = 50_000
    """Most texts read for n-grams and minimal pairs; null reads none."""

    mistakes: PositiveInt = 10
    """Number of worst mistakes shown with their code."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class MlflowSettings:
    """Where runs are tracked."""

    tracking_uri: str = ""
    """MLflow server or database; empty is a local database below the storage root."""

    experiment: str = "critic"
    """MLflow experiment the runs belong to."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class WandbSettings:
    """Weights & Biases, beside MLflow; needs critic[wandb]. Its key comes from WANDB_API_KEY."""

    project: str | None = None
    """Project that runs are logged to as well; null: none."""
