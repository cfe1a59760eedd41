"""The settings of stage 2: which pairs are drawn, how the head is trained, judged and kept."""

from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from headtrain.checkpoint_settings import CheckpointSettings as CheckpointSettings

_STRICT_KEYS = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class PairwiseSettings:
    """How (correct, incorrect) pairs of one problem are drawn."""

    n_pairs: PositiveInt = 50_000
    """Pairs to draw; all there are when the data holds fewer."""

    strategy: Literal["balanced", "uniform"] = "balanced"
    """balanced: problems equally likely; uniform: combinations equally likely."""

    max_pairs_per_problem: PositiveInt | None = None
    """At most so many pairs of one problem; null is no limit."""

    length_matched: bool = False
    """Pair only outputs of like length: in one bin of output tokens."""

    length_bin_tokens: PositiveInt = 32
    """Width of the bins of length_matched, in tokens."""

    difficulties: dict[str, NonNegative] | tuple[str, ...] | None = None
    """Weight of the problems of each difficulty, or those to take; others are left out."""

    exclude_problems: tuple[str, ...] | str | None = None
    """Problems left out: their ids, or a file with one id a line."""

    @field_validator("difficulties", mode="before")
    @classmethod
    def _read_numbers_as_names(cls, names: object) -> object:
        """Difficulties are text everywhere else; YAML makes numbers of 800 and 1200."""
        if isinstance(names, dict):
            return {_as_name(name): weight for name, weight in names.items()}
        return [_as_name(name) for name in names] if isinstance(names, (list, tuple)) else names

    @field_validator("exclude_problems", mode="before")
    @classmethod
    def _read_number_ids_as_text(cls, names: object) -> object:
        return [_as_name(name) for name in names] if isinstance(names, (list, tuple)) else names

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
    """What of the dataset the head is trained and validated on."""

    sampling_method: str = "pairwise"
    """pairwise: a correct and an incorrect output of the same problem."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of the pair sampling and of the validation subset."""

    val_n_samples: PositiveInt | None = 1000
    """At most so many validation samples during training, whole problems; null is all."""

    pairwise: PairwiseSettings = field(default_factory=PairwiseSettings)
    """How the pairs are drawn."""

    @field_validator("sampling_method")
    @classmethod
    def _refuse_other_methods(cls, method: str) -> str:
        if method == "problems":
            raise ValueError(
                "sampling_method 'problems' was removed: its final shuffle broke the pairs of a "
                "problem up; use 'pairwise'"
            )
        if method != "pairwise":
            raise ValueError(f"sampling_method {method!r} is unknown; use 'pairwise'")
        return method


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class SchedulerSettings:
    """How the learning rate moves over a run."""

    type: Literal["cosine", "constant"] = "cosine"
    """cosine: warm up, then fall along half a cosine; constant: warm up, then stay."""

    warmup_ratio: Share = 0.05
    """Share of the optimizer steps that warm the learning rate up from zero."""

    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Where the cosine ends, as a share of the peak learning rate."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class TrainingSettings:
    """The value head and its training loop."""

    loss_type: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: -log sigmoid(V+ - V-); pointwise: the sample's label alone (the baseline)."""

    pointwise_loss: Literal["bce", "mse"] = "bce"
    """The loss of loss_type pointwise."""

    margin: NonNegative = 0.0
    """Pairwise: how far apart the values of a pair should be."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Pairwise: share of the pairs that are taken to be labelled the wrong way round."""

    center_coefficient: NonNegative = 0.0
    """Pairwise: weight of the mean of (V+ + V-)^2, which keeps values around 0."""

    pair_weights: Literal["pairs", "problems"] = "pairs"
    """Pairwise: what weighs the same in the loss, every pair or every problem."""

    batching: Literal["pairs", "problems"] = "pairs"
    """Pairwise: batches of random pairs, or of whole problems with about batch_size pairs."""

    problem_pairs: Literal["sampled", "all"] = "sampled"
    """With batching problems: the drawn pairs, or all pairs of the samples that were drawn."""

    n_epochs: Positive = 1.0
    """Passes over the drawn pairs; fractions are allowed."""

    batch_size: PositiveInt = 32
    """Pairs a forward pass (twice as many samples)."""

    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step."""

    trunk_learning_rate: float = 0.0
    """Always 0: the backbone is frozen."""

    value_head_learning_rate: Positive = 1e-3
    """Peak learning rate of the head."""

    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (AdamW)."""

    max_grad_norm: Positive | None = 1.0
    """Gradients longer than this are scaled down to it; null is off."""

    num_unfrozen_layers: int = 0
    """Always 0: the backbone is frozen."""

    value_head_type: Literal["mlp", "linear"] = "mlp"
    """mlp: hidden -> hidden/8 -> hidden/16 -> 1; linear: hidden -> 1."""

    value_head_width: Annotated[int, Field(ge=2)] | None = None
    """Units of the mlp's first layer, half of them in the second; null: as value_head_type says."""

    normaliser: Literal["standardize", "tensor", "none"] = "standardize"
    """What brings features to mean 0 and deviation 1: each by its own; by one a tensor; nothing."""

    dropout: Share = 0.3
    """Dropout after each activation of the mlp head; a linear head has none."""

    log_interval: PositiveInt = 10
    """Optimizer steps between two logged values."""

    features: list[str] | None = None
    """Store tensors the head reads, e.g. [mean.12, last.24]; null is all of them."""

    feature_mix: Literal["concat", "mix"] = "concat"
    """concat: tensors side by side; mix: the size of one tensor, reading a learned mix of them."""

    likelihood: bool | None = None
    """Also read the backbone's log-probabilities of the output; null: if the store has them."""

    max_feature_memory_gb: NonNegative | None = None
    """Features kept in memory; those beyond are read from a file. null: most of what is free."""

    likelihood_direct: bool = True
    """Lead them straight to the value as well: among thousands of features four would drown."""

    early_stopping_patience: PositiveInt | None = None
    """Stop after so many validations in a row without a better one; null: go to the end."""

    lr_scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    """How the learning rate moves."""

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
    def _refuse_nothing_to_read(self) -> Self:
        if self.features == [] and self.likelihood is False:
            raise ValueError(
                "features is empty and likelihood is false: the head would read nothing; name a "
                "store tensor or set likelihood to true"
            )
        return self

    @model_validator(mode="after")
    def _refuse_width_of_linear(self) -> Self:
        if self.value_head_width is not None and self.value_head_type == "linear":
            raise ValueError(
                f"value_head_width {self.value_head_width} is of the mlp, but value_head_type is "
                "linear; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _refuse_options_of_pairs(self) -> Self:
        if self.loss_type == "pointwise":
            changed = [
                f"{name} {getattr(self, name)!r}"
                for name in (
                    "margin",
                    "label_smoothing",
                    "center_coefficient",
                    "pair_weights",
                    "batching",
                )
                if getattr(self, name) not in (0, "pairs")
            ]
            if changed:
                raise ValueError(
                    f"{changed[0]} is of pairs, but loss_type is pointwise; leave it out"
                )
        if self.problem_pairs == "all" and self.batching != "problems":
            raise ValueError(
                "problem_pairs 'all' needs batching 'problems': random pairs are drawn one by one"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class EvaluationSettings:
    """What a head is judged on, and how sure an evaluation says it is."""

    train_holdout: Share = 0.0
    """Share of the train problems that are not trained on but scored, beside validation."""

    bootstrap_rounds: PositiveInt = 1000
    """Resamples of the problems behind each interval."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the resamples an interval covers."""

    length_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Outputs of about one length: neither is longer than the other by more than this share."""

    minimal_edit: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Minimal pairs: at most this share of the characters has to be edited."""

    most_texts: PositiveInt | None = 50_000
    """Texts read for what needs them: n-grams and minimal pairs; null reads none."""

    mistakes: PositiveInt = 10
    """Worst mistakes shown with their code."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class MlflowSettings:
    """Where runs are tracked."""

    tracking_uri: str = ""
    """MLflow server or database; empty is a local database below the storage root."""

    experiment: str = "critic"
    """MLflow experiment the runs belong to."""


def _as_name(name: object) -> object:
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name
