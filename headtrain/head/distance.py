"""How far features are from those a head was trained on: a Mahalanobis distance, saved with it.

Features are standardised per column. Their covariance is that of probabilistic PCA (Tipping and
Bishop 1999), the first components by their variances and the rest by one variance, shrunk by the
oracle approximating share. A distance becomes the share of train samples that are nearer. Those are
measured by fits to the other problems: a fit puts the samples it has seen far too near.
"""

import json
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Self

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from featurize.arrays import Floats, Floats32, Ints
from featurize.errors import CriticError
from featurize.io.files import atomic_path

DISTANCE_FILE = "distance.safetensors"
FORMAT_VERSION = 1
MAX_ROWS = 4096
"""Train rows of a fit; of more, problems are drawn."""
MAX_COMPONENTS = 128
NUM_FOLDS = 5
NUM_QUANTILES = 1001

_OVERSAMPLED = 16
_ITERATIONS = 6
_SMALLEST_SCALE = 1e-3  # of the mean scale: a column that hardly varies on train decides nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """A normal distribution over rows of features, with few components of their covariance."""

    mean: Floats32
    """[width]"""
    scale: Floats32
    """[width] standard deviation of each column"""
    components: Floats32
    """[width, components], orthonormal, of standardised columns"""
    variances: Floats32
    """[components]"""
    rest: Floats32
    """[1] variance in every other direction"""

    @classmethod
    def fit(cls, features: Floats32, seed: int = 0) -> Self:
        """Fit to rows [rows, width], at least two.

        Raises:
            CriticError: all rows are equal.
        """
        rows = features.astype(np.float64)
        mean, scale = rows.mean(0), rows.std(0)
        if not scale.any():
            raise CriticError("the features of all train samples are equal: no distance to them")
        scale = np.maximum(scale, _SMALLEST_SCALE * scale.mean())
        rows = (rows - mean) / scale
        components, variances = _first_components(rows, seed)
        num_rows, width = rows.shape
        total = float(np.square(rows).sum()) / num_rows
        share = oas_share(_sum_of_squares(rows), total, width, num_rows)
        level = total / width
        rest = (total - variances.sum()) / max(1, width - len(variances))
        shrunk, rest = ((1 - share) * one + share * level for one in (variances, max(rest, 0.0)))
        return cls(
            mean=mean.astype(np.float32),
            scale=scale.astype(np.float32),
            components=components.astype(np.float32),
            variances=shrunk.astype(np.float32),
            rest=np.array([rest], np.float32),
        )

    def measure(self, features: Floats32) -> Floats:
        """Measure the squared Mahalanobis distance of rows [rows, width] by column, [rows]."""
        rows = (features.astype(np.float64) - self.mean) / self.scale
        along = rows @ self.components.astype(np.float64)
        beside = np.square(rows).sum(1) - np.square(along).sum(1)
        found = (np.square(along) / self.variances).sum(1) + np.maximum(beside, 0) / self.rest[0]
        return np.asarray(found / rows.shape[1], np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Distance:
    """The distance to the train features of a head."""

    gaussian: Gaussian
    quantiles: Floats
    """[NUM_QUANTILES] distances of train samples to fits of other problems, ascending"""
    num_rows: int
    num_problems: int

    @classmethod
    def fit(cls, features: Floats32, problems: Ints, seed: int = 0) -> Self:
        """Fit to rows [rows, width] of `problems` [rows], and calibrate by rows of other problems.

        Raises:
            CriticError: there are fewer than two problems, or all rows are equal.
        """
        features, problems = _draw(features, problems, seed)
        codes = np.unique(problems, return_inverse=True)[1]
        num_problems = int(codes.max(initial=-1)) + 1
        if num_problems < 2:
            raise CriticError(
                f"a distance to train needs the features of at least 2 problems, not {num_problems}"
            )
        order = np.random.default_rng(seed).permutation(num_problems)
        fold = order[codes] % min(NUM_FOLDS, num_problems)
        found = np.empty(len(features))
        for number in np.unique(fold):
            is_out = fold == number
            found[is_out] = Gaussian.fit(features[~is_out], seed).measure(features[is_out])
        return cls(
            gaussian=Gaussian.fit(features, seed),
            quantiles=np.quantile(found, np.linspace(0, 1, NUM_QUANTILES)),
            num_rows=len(features),
            num_problems=num_problems,
        )

    def measure(self, features: Floats32) -> Floats:
        """Measure the share of train samples nearer than each of rows [rows, width], [rows]."""
        shares = np.linspace(0, 1, len(self.quantiles))
        return np.interp(self.gaussian.measure(features), self.quantiles, shares)

    def write(self, folder: Path, weights_checksum: str) -> Path:
        """Write it beside the head whose weights have this checksum; return the path."""
        about = {
            "format_version": FORMAT_VERSION,
            "weights_checksum": weights_checksum,
            "num_rows": self.num_rows,
            "num_problems": self.num_problems,
        }
        tensors = {**vars(self.gaussian), "quantiles": self.quantiles}
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        content = safetensors.numpy.save(whole, {"critic_distance": json.dumps(about)})
        path = folder / DISTANCE_FILE
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return path

    @classmethod
    def read(cls, path: str, content: bytes, weights_checksum: str, width: int) -> Self:
        """Read it from the bytes of its file; `path` is for messages.

        Raises:
            CriticError: it is damaged, or was not saved for these weights of `width` columns.
        """
        remedy = "run `critic train-head --distance` again, or delete the file to do without it"
        try:
            # The metadata, which safetensors does not read from bytes: a length, then JSON.
            start = 8 + int.from_bytes(content[:8], "little")
            about = json.loads(json.loads(content[8:start])["__metadata__"]["critic_distance"])
            if (version := about["format_version"]) != FORMAT_VERSION:
                raise CriticError(
                    f"{path}: format version {version!r}, this version reads {FORMAT_VERSION}; "
                    f"{remedy}"
                )
            tensors = safetensors.numpy.load(content)
            found = cls(
                quantiles=tensors.pop("quantiles"),
                gaussian=Gaussian(**tensors),
                num_rows=about["num_rows"],
                num_problems=about["num_problems"],
            )
            checksum = about["weights_checksum"]
        except (SafetensorError, JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise CriticError(f"{path}: damaged ({error}); {remedy}") from error
        if checksum != weights_checksum or found.gaussian.mean.shape != (width,):
            raise CriticError(f"{path}: belongs to other weights than the head beside it; {remedy}")
        if (why := found.why_unusable()) is not None:
            raise CriticError(f"{path}: damaged ({why}); {remedy}")
        return found

    def why_unusable(self) -> str | None:
        """Why no distance can be measured with these numbers; None if one can.

        NOTE: the file has no checksum of its own, so a changed digit goes unnoticed.
        """
        size, width = self.gaussian.variances.size, self.gaussian.mean.size
        shapes = {"scale": [width], "components": [width, size], "variances": [size], "rest": [1]}
        for name, shape in shapes.items():
            if (found := [*getattr(self.gaussian, name).shape]) != shape:
                return f"{name} is {found}, not {shape}"
        for name, values in {**vars(self.gaussian), "quantiles": self.quantiles}.items():
            if values.ndim == 0 or not np.isfinite(values).all():
                return f"{name} holds NaN or inf"
        if self.quantiles.ndim != 1 or (np.diff(self.quantiles) < 0).any():
            return "quantiles are not ascending"
        return None


def oas_share(squares: float, trace: float, width: int, count: int) -> float:
    """Return the share of the identity in a second moment [width, width] of `count` draws.

    `squares` is the sum of its squared entries. It is the oracle approximating shrinkage for
    Gaussian draws: Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for MMSE Covariance
    Estimation" (2010), equation 23.
    """
    spread = squares - trace**2 / width
    if spread <= 1e-12 * squares:  # a multiple of the identity already
        return 1.0
    share = ((1 - 2 / width) * squares + trace**2) / ((count + 1 - 2 / width) * spread)
    return min(1.0, share)


def _first_components(rows: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return the first components [width, k] of centred rows and their variances [k].

    Subspace iteration: Halko, Martinsson and Tropp, "Finding Structure with Randomness" (2011),
    algorithm 4.4.
    """
    num_rows, width = rows.shape
    # NOTE: with more components than an eighth of the rows, the last ones are noise.
    wanted = max(1, min(MAX_COMPONENTS, num_rows // 8, width - 1))
    drawn = min(wanted + _OVERSAMPLED, width, num_rows)
    basis = np.random.default_rng(seed).standard_normal((width, drawn))
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    _, sizes, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    return basis @ turned[:wanted].T, np.square(sizes[:wanted]) / num_rows


def _sum_of_squares(rows: Floats) -> float:
    """Sum the squared entries of the second moment of rows, by the smaller of two products."""
    num_rows, width = rows.shape
    product = rows.T @ rows if width <= num_rows else rows @ rows.T
    return float(np.square(product).sum() / num_rows**2)


def _draw(features: Floats32, problems: Ints, seed: int) -> tuple[Floats32, Ints]:
    """Draw whole problems until there are MAX_ROWS rows, in the order of the rows."""
    if len(features) <= MAX_ROWS:
        return features, problems
    names, codes, counts = np.unique(problems, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    kept = order[np.cumsum(counts[order]) <= MAX_ROWS]
    kept = kept if len(kept) > 1 else order[:2]
    is_kept = np.isin(codes, kept)
    return features[is_kept], problems[is_kept]
