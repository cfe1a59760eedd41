"""Sections B7 and B8: loading large files, and talking to other devices."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from featurize.model.agreement import relative_error
from featurize.model.backbone import load_backbone
from featurize.model.source import find_backbone
from featurize.run.launch import run_job
from featurize.settings import BackboneSettings, DistributedSettings
from featurize.store import FeatureStore
from tests.gpu.jobs import Notes, make_job
from tests.gpu.models import SHAPES, draw_llama, write_config
from tests.gpu.report import Found, Report, Skip
from tests.gpu.timing import free_memory, peak_bytes

LAYERS, SPARE = 2, 1.05
"""Layers that are enough for a peak, and the peak that passes, in sizes of the weights."""

SHARED_LIMIT = 5e-2
"""Largest relative error of features of a shared backbone: it sums in another order."""


def check_loaders(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Make checks B7 and B8."""
    shape = "tiny" if is_tiny else "7B"
    for name, write in {"safetensors": write_safetensors, "llama-MTP": write_llama_mtp}.items():

        def load(write: object = write) -> Found:
            with tempfile.TemporaryDirectory() as folder:
                assert callable(write)
                return load_peak(write(Path(folder), shape, device), device)

        report.check(f"B7 {shape} of {LAYERS} layers from {name}: peak / weights", load)
    report.check("B8 a collective of one rank", lambda: collective(device))
    for key in ("tensor_parallel_size", "shard_backbone"):

        def share(key: str = key) -> Found:
            return shared_backbone(device, key, is_tiny=is_tiny)

        report.check(f"B8 two ranks, {key}", share)


def write_safetensors(folder: Path, shape: str, device: torch.device) -> Path:
    """Write a drawn model as transformers does."""
    from transformers import LlamaConfig

    write_config(folder, shape, num_hidden_layers=LAYERS)
    draw_llama(LlamaConfig.from_pretrained(folder), device, torch.bfloat16).save_pretrained(folder)
    return folder


def write_llama_mtp(folder: Path, shape: str, device: torch.device) -> Path:
    """Write drawn weights as Meta does: params.json and tensors by Meta's names."""
    sizes = SHAPES[shape]
    params = {
        "dim": sizes["hidden_size"],
        "n_layers": LAYERS,
        "n_heads": sizes["num_attention_heads"],
        "n_kv_heads": sizes["num_key_value_heads"],
        "n_future_tokens": 1,
        "vocab_size": sizes["vocab_size"],
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    (folder / "params.json").write_text(json.dumps(params))
    save_file(dict(_llama_mtp_tensors(shape, device)), folder / "model-0.safetensors")
    return folder


def _llama_mtp_tensors(shape: str, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    sizes = SHAPES[shape]
    width, mlp = sizes["hidden_size"], sizes["intermediate_size"]
    kv = width // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    matrices = {
        "attention.wq": (width, width),
        "attention.wk": (kv, width),
        "attention.wv": (kv, width),
        "attention.wo": (width, width),
        "feed_forward.w1": (mlp, width),
        "feed_forward.w2": (width, mlp),
        "feed_forward.w3": (mlp, width),
    }
    generator = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        drawn = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
        return drawn.normal_(0.0, columns**-0.5, generator=generator).cpu()

    yield "tok_embeddings.weight", matrix(sizes["vocab_size"], width)
    for layer in range(LAYERS):
        for name, (rows, columns) in matrices.items():
            yield f"layers.{layer}.{name}.weight", matrix(rows, columns)
        for name in ("attention_norm", "ffn_norm"):
            yield f"layers.{layer}.{name}.weight", torch.ones(width, dtype=torch.bfloat16)
    yield "norm.weight", torch.ones(width, dtype=torch.bfloat16)
    yield "output.weight", matrix(sizes["vocab_size"], width)


def load_peak(folder: Path, device: torch.device) -> Found:
    """Load a folder; the peak of the device's memory in sizes of the weights."""
    settings = BackboneSettings(name="written", path=str(folder))
    source = find_backbone(settings, folder, torch.bfloat16)
    free_memory(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    backbone = load_backbone(
        source,
        settings,
        device=device,
        dtype=torch.bfloat16,
        deepest_layer=LAYERS,
        with_lm_head=True,
    )
    assert backbone.lm_head is not None
    modules = (backbone.decoder, backbone.lm_head)
    weights = {p.data_ptr(): p.nbytes for module in modules for p in module.parameters()}
    note = f"{sum(weights.values()) / 1e9:.2f} GB of weights"
    peak = peak_bytes(device)
    if peak is None:
        raise Skip(f"loaded and checked ({note}); the peak is measured on CUDA only")
    return Found(error=(peak - before) / sum(weights.values()), limit=SPARE, note=note)


def collective(device: torch.device) -> Found:
    """B8: start the library for collectives, sum over one rank, and end it."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    options = {"device_id": device} if device.type == "cuda" else {}
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, **options)
    try:
        ones = torch.ones(1000, device=device)
        dist.all_reduce(ones)
        error = float((ones - 1).abs().max())
    finally:
        dist.destroy_process_group()
    return Found(error=error, limit=0.0, path=backend)


def shared_backbone(device: torch.device, key: str, *, is_tiny: bool) -> Found:
    """B8: a backbone that two devices share gives the features of one device."""
    devices = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    if is_tiny:
        raise Skip("needs two devices; tests/integration/test_cli_distributed.py does it on a CPU")
    if devices < 2:
        raise Skip(f"needs two devices, there is {devices}")
    value = 2 if key == "tensor_parallel_size" else True
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        job = make_job(place, "tiny", device, problems=4, is_tiny=True, dtype="bfloat16")
        write_safetensors(place / "model", "tiny", device)
        run_job(job, Notes(), workers=1)
        shared = replace(
            job, store_dir=place / "shared", distributed=DistributedSettings(**{key: value})
        )
        run_job(shared, Notes(), workers=2)
        found, expected = (FeatureStore.open(one.store_dir) for one in (shared, job))
        name = expected.tensor_names[0]
        error = relative_error(found.read(name).float(), expected.read(name).float())
    return Found(error=error, limit=SHARED_LIMIT)
