"""Which stretches of which shards hold a set of rows, so that close ones are read together."""

from dataclasses import dataclass

import numpy as np

from featurize.arrays import Ints


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Stretches of rows to read; `order` sorts the wanted rows, each run is a piece of it."""

    order: Ints  # [wanted] places of the wanted rows, by row
    offsets: Ints  # [wanted] row after the first of its run, in that order
    places: list[int]  # [runs] place of the first wanted row of a run
    begins: list[int]  # [runs] piece of `order` that a run serves
    ends: list[int]
    units: list[int]  # [runs] unit it lies in
    first_rows: list[int]  # [runs] first row to read, counted from 0 in its unit
    num_rows: list[int]  # [runs] rows to read, those in gaps included
    are_direct: list[bool]  # [runs] row by row what is wanted, in the order it is wanted


def plan_runs(rows: Ints, starts: Ints, most_gap: int) -> Runs:
    """Sorts rows into runs, each of which is one read.

    Args:
        rows: the wanted rows, [wanted], counted through the whole store.
        starts: first row of each unit and the number of rows, [units + 1].
        most_gap: rows it is cheaper to read along than to skip; 0: rows are so large that only
            those are read together that are wanted one after the other, and so need no copy.
    """
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    units = np.searchsorted(starts, wanted, side="right") - 1
    steps = np.diff(wanted)  # [wanted - 1]
    is_next = (steps == 1) & (np.diff(order) == 1)
    is_far = steps > most_gap + 1 if most_gap else ~is_next & (steps > 0)
    is_break = (np.diff(units) != 0) | is_far
    begins = np.concatenate([[0], np.flatnonzero(is_break) + 1])[: len(wanted)].astype(np.int64)
    ends = np.append(begins[1:], len(wanted))[: len(begins)].astype(np.int64)
    firsts, lasts = wanted[begins], wanted[ends - 1]
    num_next = np.concatenate([[0], np.cumsum(is_next)])
    are_direct = num_next[ends - 1] - num_next[begins] == ends - begins - 1
    return Runs(
        order=order,
        offsets=wanted - np.repeat(firsts, ends - begins),
        places=order[begins].tolist(),
        begins=begins.tolist(),
        ends=ends.tolist(),
        units=units[begins].tolist(),
        first_rows=(firsts - starts[units[begins]]).tolist(),
        num_rows=(lasts - firsts + 1).tolist(),
        are_direct=are_direct.tolist(),
    )
