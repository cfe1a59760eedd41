"""Section A: the machine, its libraries, and what they reach on plain operations."""

import inspect
import platform
import shutil
import subprocess
from dataclasses import dataclass

import torch
import transformers

from tests.gpu.report import Report, Row
from tests.gpu.timing import seconds_of, wait

DATASHEET = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations a second by NVIDIA's datasheets, by a part of the device's name."""


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Operations a second."""

    measured: float  # of a large product in the number format of the backbones
    datasheet: float | None  # None: the device is not in the list


def describe(device: torch.device) -> Row:
    """Names and versions."""
    facts: Row = {
        "device": device_name(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda or "none",
        "driver": _driver() if device.type == "cuda" else "none",
        "varlen_attn": varlen_signature(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["capability"] = f"{properties.major}.{properties.minor}"
        facts["memory_gb"] = properties.total_memory / 1e9
    return facts


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def varlen_signature() -> str:
    """What the installed `varlen_attn` takes."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        return f"not there: {error}"
    return ", ".join(inspect.signature(varlen_attn).parameters)


def datasheet_peak(name: str) -> float | None:
    """The peak of the first entry whose words are all in the name: the narrower ones come first."""
    words = name.replace("-", " ").split()
    fits = (peak for key, peak in DATASHEET.items() if set(key.split()) <= set(words))
    return next(fits, None)


def measure_machine(report: Report, device: torch.device, *, is_tiny: bool) -> Peaks:
    """Measure products, copies and launches; prints a table."""
    report.facts |= describe(device)
    for key, value in report.facts.items():
        print(f"{key}: {value}", flush=True)
    size = 256 if is_tiny else 8192
    rates: Row = {}
    formats = (torch.bfloat16, torch.float32) if is_tiny else (torch.bfloat16, torch.float16)
    for dtype in formats:
        rates[str(dtype).removeprefix("torch.")] = gemm_rate(device, dtype, size)
    row = {f"GEMM {size}^3 {name} TFLOP/s": rate / 1e12 for name, rate in rates.items()}
    row["copy TB/s"] = copy_rate(device, 2**20 if is_tiny else 2**30) / 1e12
    row["us a launch"] = 1e6 * launch_seconds(device)
    report.measure("A. Machine", lambda: row, device=device_name(device))
    peak = datasheet_peak(device_name(device)) if device.type == "cuda" else None
    return Peaks(measured=rates["bfloat16"], datasheet=peak)


def gemm_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a square product, the best of several runs of 10."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def run() -> None:
        for _ in range(10):
            torch.mm(left, right, out=out)

    run()
    return 10 * 2 * size**3 / seconds_of(run, device, repeats=3)


def copy_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * num_bytes / seconds_of(lambda: target.copy_(source), device, repeats=5)


def launch_seconds(device: torch.device, number: int = 1000) -> float:
    """Seconds of the host to start an operation of almost no work."""
    tensor = torch.zeros(1, device=device)

    def run() -> None:
        for _ in range(number):
            tensor.add_(1)

    run()
    wait(device)
    return seconds_of(run, device, repeats=3) / number


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.partition("\n")[0].strip() or "unknown"
