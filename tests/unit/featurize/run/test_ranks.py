"""The ranks of a run: alone, several in one process, and real processes on this machine."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from featurize.model.sharing import WHOLE, Sharing
from featurize.run.ranks import COLLECTIVE, LOADING, RankGroup, Ranks, join_round, store_errors

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture
def alone(monkeypatch) -> Ranks:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Ranks()


@pytest.fixture
def make_ranks(monkeypatch) -> Callable[..., list[Ranks]]:
    """Ranks that share a key-value store in this process."""

    def make(world_size: int, store: dist.Store | None = None) -> list[Ranks]:
        store = store or dist.HashStore()
        monkeypatch.setattr(
            sys.modules["torch.distributed.rendezvous"],  # dist.rendezvous is the function
            "rendezvous",
            lambda _, timeout: iter([(store, 0, world_size)]),
        )
        ranks = []
        for rank in range(world_size):
            for name, value in zip(VARIABLES, (rank, world_size, rank % 2), strict=True):
                monkeypatch.setenv(name, str(value))
            ranks.append(Ranks())
        return ranks

    return make


def test_one_process_is_the_first_and_only_rank(alone):
    assert (alone.rank, alone.world_size, alone.local_rank, alone.is_first) == (0, 1, 0, True)
    assert [alone.claim() for _ in range(3)] == [0, 1, 2]
    assert [alone.count("a"), alone.count("a", 5), alone.count("b", 1), alone.count("a")] == [
        0,
        5,
        1,
        5,
    ]
    value = {"a": (1, 2)}
    assert alone.share("plan", lambda: value) is value
    alone.wait_for_all("finished")
    alone.wait_for_all("finished")


def test_the_launcher_says_which_rank_this_is(make_ranks):
    ranks = make_ranks(4)
    assert [one.rank for one in ranks] == [0, 1, 2, 3]
    assert [one.is_first for one in ranks] == [True, False, False, False]
    assert [one.local_rank for one in ranks] == [0, 1, 0, 1]
    assert all(one.world_size == 4 for one in ranks)


def test_counters_are_added_up_over_ranks_and_kept_apart_by_name(make_ranks):
    first, second = make_ranks(2)
    assert first.count("tokens", 5) == 5
    assert second.count("tokens", 7) == 12
    assert first.count("tokens") == 12
    assert second.count("other") == 0
    assert second.claim() == 0


def test_restarted_ranks_count_from_0_in_the_store_of_those_that_died(make_ranks):
    store = dist.HashStore()
    before, _ = make_ranks(2, store)
    assert [before.claim(), before.claim()] == [0, 1]
    before.set_value("pending", [1, 2])
    for world_size in (3, 2):  # a machine may be gone, too
        ranks = make_ranks(world_size, store)
        assert [one.claim() for one in ranks] == list(range(world_size))
        assert not ranks[1].store_for("x").check(["pending"])


def test_a_rank_that_comes_before_the_first_one_is_let_into_its_round(make_ranks):
    store = dist.HashStore()
    make_ranks(2, store)  # a round that failed
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(join_round, store, 1, 2)
        time.sleep(0.1)
        assert not late.done()
        assert join_round(store, 0, 2) == 2
        assert late.result(10) == 2


def test_a_first_rank_that_never_comes_is_an_error(monkeypatch):
    monkeypatch.setattr("featurize.run.ranks.WELCOME_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match="the first rank did not answer"):
        join_round(dist.HashStore(), 1, 2)


def test_a_store_that_is_gone_is_said_in_a_sentence():
    with (
        pytest.raises(ConnectionError, match=r"does not answer \(Broken pipe\): .*again to resume"),
        store_errors(),
    ):
        raise dist.DistNetworkError("Broken pipe\nat TCPStore.cpp")


def test_the_first_rank_waits_for_all_others_that_give_a_sign_of_life(make_ranks, monkeypatch):
    monkeypatch.setattr("featurize.run.ranks.LOST_SECONDS", 0.3)
    monkeypatch.setattr("featurize.run.ranks.BEAT_SECONDS", 0.0)
    first, second, third = make_ranks(3)
    second.wait_for_all("finished")  # returns though nobody else is there
    waiting = ThreadPoolExecutor(1).submit(first.wait_for_all, "finished")
    time.sleep(1)
    assert not waiting.done()  # the third one is slow, but alive
    third.wait_for_all("finished")
    waiting.result(10)

    monkeypatch.setattr("featurize.run.ranks.start_heartbeat", lambda store, rank: None)
    first, second = make_ranks(2)
    with pytest.raises(TimeoutError, match=r"rank 1 has sent no heartbeat for 0 seconds"):
        first.wait_for_all("finished")


def test_a_group_takes_the_units_its_leader_claims(make_ranks):
    sharing = Sharing(kind="tensor", size=2)
    groups = [RankGroup(rank, sharing) for rank in make_ranks(4)]
    assert [(group.number, group.is_leader) for group in groups] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda group: [group.claim() for _ in range(20)], groups))
    assert claims[0] == claims[1]
    assert claims[2] == claims[3]
    assert sorted(claims[0] + claims[2]) == list(range(40))


def test_ranks_with_a_whole_backbone_each_claim_every_unit_once(make_ranks):
    groups = [RankGroup(rank, WHOLE) for rank in make_ranks(3)]
    assert [(group.number, group.is_leader) for group in groups] == [(n, True) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        claims = list(pool.map(lambda group: [group.claim() for _ in range(50)], groups))
    assert sorted(number for claimed in claims for number in claimed) == list(range(150))


def test_a_lost_rank_is_distinguished_from_a_fault_of_the_program(make_ranks):
    group = RankGroup(make_ranks(2)[0], Sharing(kind="tensor", size=2))
    reason = "shares the backbone with rank 0 has ended"
    with pytest.raises(ConnectionError, match=reason), group.reports_lost_ranks():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes do not match"), group.reports_lost_ranks():
        raise RuntimeError("shapes do not match")


def test_a_forward_pass_waits_for_a_lost_rank_shorter_than_loading_does(make_ranks):
    ranks = make_ranks(1)[0]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=LOADING)
    try:
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        RankGroup(ranks, WHOLE).loaded()
        assert backend.options._timeout == LOADING
        RankGroup(ranks, Sharing(kind="fsdp", size=2)).loaded()
        assert backend.options._timeout == COLLECTIVE < LOADING
    finally:
        dist.destroy_process_group()


def test_what_the_first_rank_makes_is_shared_and_made_once(make_ranks):
    first, second, third = make_ranks(3)
    made = []

    def make() -> dict:
        time.sleep(0.05)  # the others are there before
        made.append(1)
        return {"pending": [3, 1], "é": None}

    with ThreadPoolExecutor(3) as pool:
        values = list(pool.map(lambda one: one.share("plan", make), [third, second, first]))
    assert values == [{"pending": [3, 1], "é": None}] * 3
    assert made == [1]
