"""Section C, second part: what others take for the same samples, in the same run."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from featurize.model.backbone import Backbone
from featurize.model.engine import Engine
from featurize.model.packing import PromptGroup, plan_padded
from tests.benchmarks.bench_featurize import run_sentence_transformers
from tests.gpu.models import VOCAB_OF_TEXTS, features_of, train_tokenizer
from tests.gpu.report import Report, Row, Skip
from tests.gpu.timing import seconds_of
from tests.support.workloads import make_workload, source_text

TABLE = "C. Peers"
BATCH, PROBLEMS, BUDGET = 16, 12, 32768


def compare_peers(
    report: Report,
    shape: str,
    backbone: Backbone,
    folder: Path,
    candidates: int,
    prompts: tuple[int, int],
) -> None:
    """Measure samples a second of each way of computing the mean over the last layer."""
    problems = PROBLEMS if shape != "tiny" else 2
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
        with tempfile.TemporaryDirectory() as place:
            saved = _save(backbone, Path(place))
            kind = backbone.device.type
            found = run_sentence_transformers(saved, torch.bfloat16, groups, kind)
        if found is None:
            raise Skip("sentence-transformers is not installed")
        return rate(found.samples, found.seconds)

    def vllm() -> Row:
        with tempfile.TemporaryDirectory() as place:
            return rate(len(singles), **run_vllm(_save(backbone, Path(place)), backbone, singles))

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
    try:
        from vllm import LLM, SamplingParams
        from vllm.config.kv_transfer import KVTransferConfig
    except ImportError:
        raise Skip("vLLM is not installed") from None
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


def _save(backbone: Backbone, folder: Path) -> Path:
    """Write the drawn model with a tokenizer, for ways that read a folder."""
    backbone.decoder.save_pretrained(folder)
    train_tokenizer(source_text(200_000), min(VOCAB_OF_TEXTS, 1024)).save_pretrained(folder)
    return folder
