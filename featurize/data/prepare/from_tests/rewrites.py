"""The catalogue of rewrites: changes of a program's text after which it does the same."""

import random

from featurize.data.prepare.from_tests import rewrites_branches as branches
from featurize.data.prepare.from_tests import rewrites_expressions as expressions
from featurize.data.prepare.from_tests import rewrites_loops as loops
from featurize.data.prepare.from_tests.edits import (
    EditedProgram,
    Rule,
    edit_once,
    rule_on_blocks,
    rule_on_expressions,
)

REWRITES: dict[str, Rule] = {
    "rename variable": branches.rename_variable,
    "flip comparison": rule_on_expressions(expressions.flip_comparison),
    "negate twice": rule_on_expressions(expressions.negate_twice),
    "De Morgan": rule_on_expressions(expressions.apply_de_morgan),
    "split chain": rule_on_expressions(expressions.split_chain),
    "commute": rule_on_expressions(expressions.commute),
    "range form": rule_on_expressions(expressions.change_range_form),
    "slice form": rule_on_expressions(expressions.change_slice_form),
    "swap ternary": rule_on_expressions(expressions.swap_ternary),
    "generator form": rule_on_expressions(expressions.change_generator_form),
    "wrap list": rule_on_expressions(expressions.wrap_list),
    "swap alternatives": rule_on_expressions(expressions.swap_equal_alternatives),
    "swap branches": rule_on_blocks(branches.swap_branches),
    "guard to else": rule_on_blocks(branches.guard_to_else),
    "else to guard": rule_on_blocks(branches.else_to_guard),
    "nest condition": rule_on_blocks(branches.nest_condition),
    "ternary to branches": rule_on_blocks(branches.ternary_to_branches),
    "branches to ternary": rule_on_blocks(branches.branches_to_ternary),
    "return to branches": rule_on_blocks(branches.return_to_branches),
    "expand augmented": rule_on_blocks(branches.expand_augmented),
    "contract augmented": rule_on_blocks(branches.contract_augmented),
    "name return value": rule_on_blocks(branches.name_return_value),
    "inline return value": rule_on_blocks(branches.inline_return_value),
    "name first value": rule_on_blocks(branches.name_first_value),
    "swap assignments": rule_on_blocks(branches.swap_assignments),
    "for to while": rule_on_blocks(loops.for_to_while),
    "while to break": rule_on_blocks(loops.while_to_break),
    "condition to continue": rule_on_blocks(loops.condition_to_continue),
    "enumerate to counter": rule_on_blocks(loops.enumerate_to_counter),
    "comprehension to loop": rule_on_blocks(loops.comprehension_to_loop),
    "quantifier to loop": rule_on_blocks(loops.quantifier_to_loop),
    "loop to comprehension": rule_on_blocks(loops.loop_to_comprehension),
}


def rewrite_once(
    source: str,
    *,
    functions: frozenset[str],
    rng: random.Random,
    keywords: frozenset[str] = frozenset(),
) -> EditedProgram | None:
    """The program after one rewrite of one of its `functions`; None where nothing fits."""
    return edit_once(source, REWRITES, functions=functions, keywords=keywords, rng=rng)
