"""Every Python example of docs/serving.md runs, with a tiny head in place of the demo's."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from featurize.data.prompt import render_prompt
from headtrain.export.mlflow_folder import tracking_at
from headtrain.rewards import reward_of_environment
from headtrain.scoring.critic import Critic
from headtrain.scoring.server.run import Server
from tests.support.critic_apps import running
from tests.support.row_files import write_rows
from tests.support.scored_projects import ScoredProject, make_project

TEXT = (Path(__file__).parents[3] / "docs/serving.md").read_text("utf-8")
EXAMPLES = {
    section.partition("\n")[0]: block
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)
    for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
}
SOLUTIONS = [f"def add(a, b): return a + b + {n}" for n in range(8)]
PROBLEM = "Write a function that adds two numbers."


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoredProject:
    return make_project(tmp_path_factory.mktemp("project"), "dataset.max_length=400")


@pytest.fixture(scope="module")
def critic(project: ScoredProject) -> Critic:
    return Critic.load(project.head, device="cpu")


@pytest.fixture
def run(project: ScoredProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run the example of a section; return its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRITIC_HEAD", str(project.head))
    reward_of_environment.cache_clear()

    def run_section(section: str, replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
        code = EXAMPLES[section].replace("storage/checkpoints/critic/demo", str(project.head))
        for old, new in (replaced or {}).items():
            code = code.replace(old, new)
        names: dict[str, Any] = {}
        exec(compile(code, f"docs/serving.md, {section}", "exec"), names)
        return names

    yield run_section
    reward_of_environment.cache_clear()


def best_of(critic: Critic, outputs: list[str]) -> str:
    values = critic.score(PROBLEM, outputs)
    return outputs[values.index(max(values))]


def test_the_page_has_an_example_of_every_use() -> None:
    uses = {"TRL", "verl", "OpenRLHF", "vLLM", "MLflow", "Best of n", "Filtering data"}
    assert set(EXAMPLES) == uses


def test_best_of_n(run: Any, critic: Critic) -> None:
    found = run("Best of n")
    assert found["best"] == best_of(critic, found["candidates"])


def test_trl(run: Any) -> None:
    found = run("TRL")
    assert 0 < found["rewards"][0] < 1
    assert found["rewards"][1] is None


def test_verl(run: Any, critic: Critic) -> None:
    [value] = critic.score(PROBLEM, ["def add(a, b): return a + b"])
    assert run("verl")["reward"] == pytest.approx(2 * value + 0.5, abs=1e-4)


def test_openrlhf(run: Any, critic: Critic) -> None:
    [value] = critic.score(PROBLEM, ["def add(a, b): return a + b"])
    assert run("OpenRLHF")["found"]["rewards"].tolist() == [
        pytest.approx(2 * value + 0.5, abs=1e-4)
    ]


def test_filtering_data(run: Any, critic: Critic, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"{PROBLEM} {n % 3}", "output": one} for n, one in enumerate(SOLUTIONS)]
    write_rows(Path("candidates.jsonl"), rows)
    kept = run("Filtering data")["kept"]
    probabilities = [
        critic.judge(row["instruction"], [row["output"]])[0].probability for row in rows
    ]
    expected = [row for row, p in zip(rows, probabilities, strict=True) if p >= 0.5]
    assert sorted(map(str, kept)) == sorted(map(str, expected))
    assert f"{len(expected)} of 8 solutions kept" in capsys.readouterr().out


@pytest.mark.slow
def test_mlflow(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with tracking_at(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        mlflow.set_experiment("serving")
        metrics = run("MLflow")["result"].metrics
    assert 0 < metrics["critic_probability/mean"] < 1


def test_vllm(run: Any, project: ScoredProject, critic: Critic) -> None:
    server = Server(
        lambda: Critic.load(project.head, device="cpu"), model="m", host="127.0.0.1", port=0
    )
    with generating() as generator, running(server):
        ports = {"http://127.0.0.1:8001": generator, "http://127.0.0.1:8000": server.url}
        assert run("vLLM", ports)["best"] == best_of(critic, SOLUTIONS)


@contextlib.contextmanager
def generating() -> Iterator[str]:
    """A stand-in of vLLM's server that has eight answers to any prompt."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choices = [{"index": n, "text": SOLUTIONS[n]} for n in range(asked["n"])]
            body = json.dumps({"object": "text_completion", "choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_template_for_verls_own_client_is_the_critics() -> None:
    """verl renders with a tokenizer's chat template, as transformers does."""
    from jinja2 import Environment

    found = re.search(r"^```jinja\n(.*?)\n```", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(found[1])
    messages = [{"content": "Add."}, {"content": "x = 1"}]
    assert template.render(messages=messages) == render_prompt("Add.") + "x = 1"
