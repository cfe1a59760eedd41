"""Section C, second part: what others take for the same samples, in the same run."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from featurize.model.backbone import Backbone
from featurize.model.engine import Engine
from featurize.model.packing import PromptGroup, plan_padded
from tests.benchmarks.bench_featurize import run_sentence_transformers
from tests.gpu.models import draw_llama, features_of, load_drawn, write_config
from tests.gpu.report import Report, Row, Skip
from tests.gpu.timing import free_memory, seconds_of
from tests.support.workloads import make_workload

TABLE = "C. Peers"
BATCH, BUDGET = 16, 32768


def measure_peers(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Compare each size with its peers."""
    for shape in ("tiny",) if is_tiny else ("7B", "135M"):
        with tempfile.TemporaryDirectory() as folder:
            place = write_config(Path(folder), shape)
            compare_peers(report, shape, load_drawn(place, device, torch.bfloat16), place)
        free_memory(device)


def compare_peers(report: Report, shape: str, backbone: Backbone, folder: Path) -> None:
    """Measure samples a second of each way of computing the mean over the last layer."""
    problems, candidates, prompts = (2, 3, (15, 60)) if shape == "tiny" else (12, 8, (150, 600))
    groups = make_workload(problems, candidates, prompts, backbone.decoder.config.vocab_size)
    rows = sum(len(group.rows) for group in groups)
    engine = Engine(backbone, features_of(backbone, likelihood=False), "packed", BUDGET)
    engine.run(groups, rows)
    ours = rows / seconds_of(lambda: engine.run(groups, rows), backbone.device)

    def rate(samples: int, seconds: float, **more: object) -> Row:
        theirs = samples / seconds
        return {"samples/s": theirs, "critic is faster": ours / theirs, **more}

    singles = [single for batch in plan_padded(groups, 1) for single in batch]
    random.Random(1).shuffle(singles)

    def loop() -> Row:
        padded_loop(backbone, singles[:BATCH])
        seconds = seconds_of(lambda: padded_loop(backbone, singles), backbone.device)
        return rate(len(singles), seconds)

    def sentence_transformers() -> Row:
        _need("sentence_transformers")
        with saved(folder, backbone.device) as place:
            kind = backbone.device.type
            found = run_sentence_transformers(place, torch.bfloat16, groups, kind)
        assert found is not None, "it is installed"
        return rate(found.samples, found.seconds)

    def vllm() -> Row:
        _need("vllm")
        with saved(folder, backbone.device) as place:
            return rate(len(singles), **run_vllm(place, backbone, singles))

    report.measure(TABLE, lambda: rate(rows, rows / ours), backbone=shape, way="critic")
    report.measure(TABLE, loop, backbone=shape, way=f"transformers, padded by {BATCH}")
    report.measure(TABLE, sentence_transformers, backbone=shape, way="sentence-transformers")
    report.measure(TABLE, vllm, backbone=shape, way="vLLM extract_hidden_states")


@torch.inference_mode()
def padded_loop(backbone: Backbone, singles: Sequence[PromptGroup]) -> Tensor:
    """The mean over each output, with transformers alone: batches padded to their longest."""
    decoder = backbone.decoder
    decoder.set_attn_implementation(backbone.plain_attention)
    found = []
    for start in range(0, len(singles), BATCH):
        part = singles[start : start + BATCH]
        sequences = [torch.tensor(single.prompt + single.outputs[0]) for single in part]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(backbone.device)
        ends = torch.tensor([len(sequence) for sequence in sequences], device=backbone.device)
        starts = torch.tensor([len(single.prompt) for single in part], device=backbone.device)
        places = torch.arange(ids.shape[1], device=backbone.device)
        mask = (places < ends[:, None]).long()
        hidden = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        is_output = (mask.bool() & (places >= starts[:, None])).unsqueeze(-1)
        sums = torch.where(is_output, hidden.float(), 0).sum(1)
        found.append((sums / is_output.sum(1)).cpu())
    return torch.cat(found)


def run_vllm(folder: Path, backbone: Backbone, singles: Sequence[PromptGroup]) -> dict[str, float]:
    """Seconds and GB written of vLLM's extraction, by its documentation's offline example.

    It writes the states of every token of a layer; prefix caching shares the prompts.
    """
    from vllm import LLM, SamplingParams
    from vllm.config.kv_transfer import KVTransferConfig

    with tempfile.TemporaryDirectory() as states:
        layers = {"eagle_aux_hidden_state_layer_ids": [backbone.num_layers]}
        model = LLM(
            model=str(folder),
            dtype="bfloat16",
            gpu_memory_utilization=0.5,
            speculative_config={
                "method": "extract_hidden_states",
                "num_speculative_tokens": 1,
                "draft_model_config": {"hf_config": layers},
            },
            kv_transfer_config=KVTransferConfig(
                kv_connector="ExampleHiddenStatesConnector",
                kv_role="kv_producer",
                kv_connector_extra_config={"shared_storage_path": states},
            ),
        )
        prompts = [{"prompt_token_ids": [*one.prompt, *one.outputs[0]]} for one in singles]
        options = SamplingParams(max_tokens=1)
        model.generate(prompts[:1], options)
        seconds = seconds_of(lambda: model.generate(prompts, options), backbone.device)
        written = sum(path.stat().st_size for path in Path(states).rglob("*") if path.is_file())
    return {"seconds": seconds, "GB written": written / 1e9}


@contextmanager
def saved(folder: Path, device: torch.device) -> Iterator[Path]:
    """Write the model of a folder's config, drawn anew to the same weights, and a tokenizer.

    Its tokens are words, so that a text of random tokens has as many as its ids.
    """
    config = LlamaConfig.from_pretrained(folder)
    words = {f"w{number}": number for number in range(2, config.vocab_size)}
    special = {"unk_token": "<unk>", "eos_token": "</s>"}
    vocabulary = {"<unk>": 0, "</s>": 1, **words}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with tempfile.TemporaryDirectory() as place:
        draw_llama(config, device, torch.bfloat16).save_pretrained(place)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
        fast.save_pretrained(place)
        yield Path(place)


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise Skip(f"{package} is not installed")
