"""The endpoints: contracts, limits, errors in one line, and prompts shared between requests."""

import asyncio
from typing import Any

import pytest

from headtrain.scoring.critic import Critic
from headtrain.scoring.server.service import Limits
from headtrain.scoring.verdict import By
from tests.support.critic_apps import Gate, HangingUp, RunningApp, ask, running_app, talk
from tests.support.processes import wait_until
from tests.support.scored_projects import ScoredProject
from tests.unit.headtrain.scoring.test_critic import near, outputs_of

TOKEN = "secret-\u00e9"


def test_single_requests_share_the_prompts_and_get_the_critics_values(
    project: ScoredProject, critic: Critic
) -> None:
    """64 requests at once, of 8 prompts: each answer is that of its own request."""
    pairs = [(row["instruction"], row["output"] + f"\n# {n}") for n, row in enumerate(project.rows)]
    by_prompt: dict[str, list[str]] = {}
    for prompt, output in pairs:
        by_prompt.setdefault(prompt, []).append(output)
    asked = [(p, o) for p, outputs in by_prompt.items() for o in (outputs * 2)[:8]]
    asked = [(p, o + f"\n# again {n}") for n, (p, o) in enumerate(asked)]
    assert (len(asked), len(by_prompt)) == (64, 8)
    order = sorted(range(64), key=lambda n: n * 37 % 64)

    async def say(app: RunningApp) -> tuple[list[Any], float]:
        bodies = [{"prompt": asked[n][0], "outputs": [asked[n][1]]} for n in order]
        replies = await asyncio.gather(*(app.post("/score", body) for body in bodies))
        tokens = app.service.counters.count("critic_forward_tokens_total")
        return [reply.json() for reply in replies], tokens

    replies, tokens = talk(critic, say, gate=Gate(64))
    found = dict(zip(order, (reply["values"][0] for reply in replies), strict=True))
    expected = [critic.score(prompt, [output])[0] for prompt, output in asked]
    assert len(set(expected)) == 64  # or answers could be mixed up
    assert [found[n] for n in range(64)] == near(expected)
    ideal: list[int] = []
    critic.judge_samples([critic.samples.encode_one(*pair) for pair in asked], ideal.append)
    assert tokens <= 1.1 * sum(ideal)


def test_a_score_has_values_probabilities_ranks_and_spread(
    project: ScoredProject, critic: Critic
) -> None:
    prompt, named = outputs_of(project, "train-0")
    outputs = list(named.values())
    reply = ask(critic, "/score", {"prompt": prompt, "outputs": outputs, "input": "1"})
    verdicts = critic.judge(prompt, outputs, "1")
    assert reply["values"] == near(v.value for v in verdicts)
    assert reply["probabilities"] == pytest.approx([v.probability for v in verdicts], abs=1e-5)
    assert reply["spread"] == pytest.approx([v.spread for v in verdicts], abs=1e-5)
    assert reply["distances"] == [None] * len(outputs)  # this head keeps none
    best = max(reply["values"])
    assert [r == 1 for r in reply["ranks"]] == [v == best for v in reply["values"]]
    assert "errors" not in reply
    messages = [{"role": "user", "content": prompt}]
    again = ask(critic, "/score", {"messages": messages, "outputs": outputs, "input": "1"})
    assert again["values"] == near(reply["values"])


def test_token_ids_are_scored_as_their_text(critic: Critic) -> None:
    sample = critic.samples.encode_one("Add.", "x = 1")
    body = {"prompt": list(sample.prompt), "outputs": [list(sample.output), "x = 1"]}
    reply = ask(critic, "/score", body)
    assert reply["values"] == [pytest.approx(critic.score("Add.", ["x = 1"])[0], abs=1e-5), None]
    assert "'output'" in reply["errors"][1]


def test_a_bad_output_fails_alone_and_is_counted(critic: Critic) -> None:
    async def say(app: RunningApp) -> Any:
        reply = await app.post("/score", {"prompt": "Add.", "outputs": ["x", " ", "y " * 999]})
        metrics = (await app.client.get("/metrics")).text
        return reply.json(), metrics, app.service.describe()

    reply, metrics, described = talk(critic, say, limits=Limits(window=0, max_text=1000))
    [good] = critic.score("Add.", ["x"])
    assert reply["values"] == [pytest.approx(good, abs=1e-5), None, None]
    assert reply["ranks"] == [1, None, None]
    assert reply["errors"][0] is None
    assert "'output' is empty" in reply["errors"][1]
    assert "1,998 characters" in reply["errors"][2]
    assert 'critic_samples_total{outcome="failed"} 2' in metrics
    assert described["samples judged"] == 1


def test_a_long_output_is_scored_as_cut_and_says_so(critic: Critic) -> None:
    reply = ask(critic, "/score", {"prompt": "Add.", "outputs": ["x = 1\n" * 400, "x"]})
    assert reply["truncated"] == [True, False]


@pytest.mark.parametrize(
    ("path", "content", "status", "told"),
    [
        ("/score", b"", 400, "truncated"),
        ("/score", b"{", 400, "truncated"),
        ("/score", b"[1]", 400, "Expected `object`"),
        ("/score", b'{"prompt": "Add."}', 400, "missing required field `outputs`"),
        ("/score", b'{"prompt": "Add.", "outputs": [1]}', 400, r"$.outputs[0]"),
        ("/score", b'{"prompt": "Add.", "outputs": ["x"], "promt": 1}', 400, "promt"),
        ("/score", b'{"prompt": "", "outputs": ["x"], "along": "w"}', 400, "'along' is 'w'"),
        ("/score", b'{"outputs": ["x"]}', 400, "none of 'prompt', 'messages'"),
        ("/score", b'{"prompt": "Add.", "outputs": ["\\ud800"]}', 400, "surrogate"),
        ("/score", b'{"prompt": "Add.", "outputs": ["\xff"]}', 400, "utf-8"),
        ("/score", b'{"prompt": ' + b"[" * 99999, 400, "body"),
        ("/score", b'{"prompt": "Add.", "outputs": ["x", NaN]}', 400, "invalid character"),
        ("/score", b'{"prompt": "Add.", "outputs": [" "]}', 422, "'output' is empty"),
        ("/score", b'{"prompt": [999999], "outputs": [[5]]}', 422, "999999"),
        ("/get_reward", b'{"query": ["a"], "prompts": [], "labels": []}', 400, "one prompt per"),
        ("/classify", b'{"input": [1, 2]}', 400, "token ids"),
        ("/classify", b'{"input": "Add."}', 422, "where the solution begins is unknown"),
        ("/classify", b'{"messages": []}', 422, "'assistant'"),
        ("/classify", b'{"model": "x"}', 400, "none of 'input'"),
        ("/rerank", b'{"prompt": "Add."}', 400, "none of 'candidates'"),
        (
            "/rerank",
            b'{"prompt": "Add.", "candidates": ["x", "y"], "top_n": -1}',
            400,
            "'top_n' is -1",
        ),
        ("/rerank", b'{"prompt": "", "query": "Add.", "candidates": ["x"]}', 400, "give one of"),
        ("/rerank", b'{"query": "Add.", "candidates": ["x"], "documents": []}', 400, "give one of"),
        ("/classify", b'{"input": "x", "messages": []}', 400, "'input' and 'messages'"),
        ("/v1/classify", b'{"input": "x", "text": "y"}', 400, "'input' and 'text'"),
    ],
)
def test_a_malformed_request_is_refused_in_one_line_that_says_why(
    critic: Critic, path: str, content: bytes, status: int, told: str
) -> None:
    async def say(app: RunningApp) -> None:
        headers = {"content-type": "application/json"}
        response = await app.client.post(path, content=content, headers=headers)
        error = response.json()["error"]
        assert response.status_code == status, response.text
        assert told.lower() in error.lower()
        assert "\n" not in error

    talk(critic, say)


def test_only_json_within_the_limit_is_read(critic: Critic) -> None:
    async def say(app: RunningApp) -> None:
        form = await app.client.post("/score", data={"prompt": "Add."})
        assert form.status_code == 415
        huge = await app.post("/score", {"prompt": "x" * 2000, "outputs": []})
        assert huge.status_code == 413
        assert "1,000 bytes" in huge.json()["error"]

        async def chunks() -> Any:
            for _ in range(3):
                yield b" " * 400

        headers = {"content-type": "application/json"}  # and no length
        streamed = await app.client.post("/score", content=chunks(), headers=headers)
        assert streamed.status_code == 413
        assert (await app.client.get("/score")).status_code == 405
        assert (await app.client.get("/nothing")).json() == {"error": "Not Found"}

    talk(critic, say, limits=Limits(window=0, max_body=1000))


def test_a_request_that_does_not_arrive_in_time_is_refused(critic: Critic) -> None:
    async def say(app: RunningApp) -> None:
        async def half() -> Any:
            yield b'{"prompt": '
            await asyncio.Event().wait()

        headers = {"content-type": "application/json"}
        response = await app.client.post("/score", content=half(), headers=headers)
        assert response.status_code == 408
        assert "did not arrive" in response.json()["error"]

    talk(critic, say, limits=Limits(window=0, body_seconds=0.01))


def test_more_than_may_wait_is_refused_until_there_is_room(critic: Critic) -> None:
    gate = Gate()

    async def say(app: RunningApp) -> None:
        body = {"prompt": "Add.", "outputs": ["x"] * 3}
        first = asyncio.ensure_future(app.post("/score", body))
        await asyncio.to_thread(wait_until, lambda: app.service.batcher.num_waiting == 3)
        second = await app.post("/score", body)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert app.service.describe()["samples refused"] == 3
        never = await app.post("/score", {"prompt": "Add.", "outputs": ["x"] * 5})
        assert never.status_code == 400
        assert "5 samples; at most 4" in never.json()["error"]
        gate.opened.set()
        assert (await first).status_code == 200
        assert (await app.post("/score", body)).status_code == 200

    talk(critic, say, gate=gate, limits=Limits(window=0, max_waiting=4))


def test_a_client_that_hangs_up_costs_no_computation(critic: Critic) -> None:
    gate = Gate()

    async def say(app: RunningApp) -> None:
        gone = HangingUp(app.app, "/score", {"prompt": "Add.", "outputs": ["x", "y"]})
        running = asyncio.ensure_future(gone.run())
        await asyncio.to_thread(wait_until, lambda: app.service.batcher.num_waiting == 2)
        gone.goes.set()
        await running
        assert app.service.num_admitted == 0
        gate.opened.set()
        await asyncio.to_thread(wait_until, lambda: app.service.batcher.num_waiting == 0)
        counters = app.service.counters
        assert counters.count("critic_forward_tokens_total") == 0
        assert counters.count("critic_samples_total", outcome="dropped") == 2
        assert counters.count("critic_requests_total", status="499") == 1
        assert (await app.post("/score", {"prompt": "Add.", "outputs": ["x"]})).status_code == 200

    talk(critic, say, gate=gate)


def test_a_token_is_asked_for_wherever_something_is_computed_or_shown(critic: Critic) -> None:
    async def say(app: RunningApp) -> None:
        body = {"prompt": "Add.", "outputs": []}
        right = {"authorization": f"Bearer {TOKEN}".encode()}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN.encode()}):
            assert (await app.post("/score", body, headers=headers)).status_code == 401
        for path in ("/metrics", "/v1/models"):
            assert (await app.client.get(path)).status_code == 401
            assert (await app.client.get(path, headers=right)).status_code == 200
        assert (await app.post("/score", body, headers=right)).status_code == 200
        for path in ("/health", "/ready", "/"):
            assert (await app.client.get(path)).status_code == 200

    talk(critic, say, token=TOKEN)


def test_it_is_healthy_at_once_but_ready_only_when_the_backbone_is_loaded(critic: Critic) -> None:
    gate = Gate()

    def load() -> Critic:
        assert gate.opened.wait(60)
        return critic

    async def say() -> None:
        async with running_app(load, waits=False) as app:
            assert (await app.client.get("/health")).status_code == 200
            for response in (
                await app.client.get("/ready"),
                await app.post("/score", {"prompt": "Add.", "outputs": ["x"]}),
            ):
                assert response.status_code == 503
                assert "loading" in response.json()["error"]
                assert int(response.headers["retry-after"]) >= 1
            gate.opened.set()
            await asyncio.to_thread(wait_until, lambda: app.service.is_ready)
            assert (await app.client.get("/ready")).status_code == 200

    asyncio.run(say())


def test_the_metrics_are_prometheus_text(critic: Critic) -> None:
    async def say(app: RunningApp) -> str:
        await app.post("/score", {"prompt": "Add.", "outputs": ["x", "y"]})
        return (await app.client.get("/metrics")).text

    lines = talk(critic, say).splitlines()
    assert 'critic_requests_total{endpoint="/score",status="200"} 1' in lines
    assert 'critic_request_seconds_bucket{endpoint="/score",le="+Inf"} 1' in lines
    assert "critic_ready 1" in lines
    assert "critic_waiting_samples 0" in lines
    assert [line for line in lines if not line.startswith("#") and len(line.split()) != 2] == []


def test_the_page_loads_nothing_from_elsewhere(critic: Critic) -> None:
    async def say(app: RunningApp) -> None:
        for path, kind in (
            ("/", "text/html"),
            ("/page.js", "text/javascript"),
            ("/page.css", "text/css"),
        ):
            response = await app.client.get(path)
            assert response.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "http://" not in response.text
            assert "https://" not in response.text
            assert "innerHTML" not in response.text

    talk(critic, say)


@pytest.mark.parametrize("by", ["lines", "tokens", 3])
def test_score_gives_the_values_along_each_output(critic: Critic, by: By) -> None:
    outputs = ["def f(a):\n    return a\n", "", "<b>x</b> = 1\nprint(x)"]
    reply = ask(critic, "/score", {"prompt": "Add.", "outputs": outputs, "along": by})
    assert reply["along"][1] is None
    assert "outputs" in reply["errors"][1] or "output" in reply["errors"][1]
    for place in (0, 2):
        found, expected = reply["along"][place], critic.values_along("Add.", outputs[place], by)
        assert found["values"] == near(expected.values)
        assert found["positions"] == list(expected.positions)
        assert "".join(found["texts"]) == outputs[place]
        assert found["values"][-1] == reply["values"][place]
    assert "along" not in ask(critic, "/score", {"prompt": "Add.", "outputs": outputs})
