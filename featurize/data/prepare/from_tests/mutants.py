"""The catalogue of mutations: small mistakes that a programmer makes, each likely to be wrong."""

import ast
import random
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import (
    Block,
    EditedProgram,
    Rule,
    Slot,
    Splice,
    edit_once,
    rule_on_blocks,
    rule_on_expressions,
)
from featurize.data.prepare.from_tests.names import Scope, parameters, stored_names

# Mostly swaps that go both ways: were `==` often turned into `>=` and never back, the mere sight of
# `>=` would speak against a program.
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd, ast.BitXor),
    ast.BitXor: (ast.BitOr,),
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor"}
_METHODS = {
    **{"upper": "lower", "lower": "upper", "isupper": "islower", "islower": "isupper"},
    **{"startswith": "endswith", "endswith": "startswith", "find": "rfind", "index": "count"},
    **{"ceil": "floor", "floor": "ceil", "isalpha": "isalnum", "isdigit": "isalpha"},
    **{"keys": "values", "values": "keys", "lstrip": "rstrip", "rstrip": "lstrip"},
}
# Calls that are easily forgotten and whose argument often has the same type as the result.
_FORGETTABLE = frozenset({"abs", "sorted", "set", "list", "round", "int", "reversed", "str"})


def change_comparison(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b` as `a <= b` or `a > b`."""
    node = slot.node
    if isinstance(node, ast.Compare):
        for position, old in enumerate(node.ops):
            for new in _COMPARISONS[type(old)]:
                ops = [*node.ops[:position], new(), *node.ops[position + 1 :]]
                yield ast.Compare(left=node.left, ops=ops, comparators=node.comparators)


def change_number(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """A whole number one too high or one too low."""
    node = slot.node
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value - 1, node.value + 1):
            if value >= 0:  # a negative literal is an operator and a number, and would stand out
                yield ast.Constant(value=value)


def change_constant(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """True for False, and a text that lacks its first or last character."""
    node = slot.node
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(value=not node.value)
        elif isinstance(node.value, str) and len(node.value) > 1:
            yield ast.Constant(value=node.value[1:])
            yield ast.Constant(value=node.value[:-1])


def change_operator(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a + b` as `a - b`, `/` as `//` and so on."""
    node = slot.node
    if isinstance(node, ast.BinOp):
        for new in _OPERATORS.get(type(node.op), ()):
            yield ast.BinOp(left=node.left, op=new(), right=node.right)


def swap_operands(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a - b` as `b - a`."""
    node = slot.node
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Mult):
        yield ast.BinOp(left=node.right, op=node.op, right=node.left)


def swap_and_or(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a and b` as `a or b`."""
    node = slot.node
    if isinstance(node, ast.BoolOp):
        other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(op=other, values=node.values)


def drop_operand(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """One of the conditions of `a and b`, or one side of a sum, forgotten."""
    node = slot.node
    if isinstance(node, ast.BoolOp) and len(node.values) == 2:
        yield from node.values
    elif isinstance(node, ast.BinOp):
        yield node.left


def change_negation(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`not a` as `a`, and a condition negated (a comparison has its own rule)."""
    node = slot.node
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif (
        slot.is_test
        and not isinstance(slot.parent, ast.UnaryOp)
        and not isinstance(node, ast.Compare)
    ):
        yield ast.UnaryOp(op=ast.Not(), operand=node)


def shift_bound(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """An index, a slice bound or the end of a range that is one off."""
    node = slot.node
    in_range = (
        isinstance(slot.parent, ast.Call)
        and slot.field == "args"
        and isinstance(slot.parent.func, ast.Name)
        and slot.parent.func.id == "range"
    )
    is_bound = isinstance(slot.parent, ast.Slice) and slot.field in {"lower", "upper"}
    is_index = isinstance(slot.parent, ast.Subscript) and slot.field == "slice"
    if (in_range or is_bound or is_index) and isinstance(node, ast.Name | ast.Call | ast.BinOp):
        for operator in (ast.Add(), ast.Sub()):
            yield ast.BinOp(left=node, op=operator, right=ast.Constant(value=1))


def change_slice(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """A slice without its step, or without one of its bounds."""
    node = slot.node
    if isinstance(node, ast.Slice):
        if node.step:
            yield ast.Slice(lower=node.lower, upper=node.upper, step=None)
        elif node.lower and node.upper:
            yield ast.Slice(lower=node.lower, upper=None, step=None)
            yield ast.Slice(lower=None, upper=node.upper, step=None)


def change_variable(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """Another variable of the same function."""
    node = slot.node
    if isinstance(node, ast.Name) and not (
        isinstance(slot.parent, ast.Call) and slot.field == "func"
    ):
        names = {*parameters(scope.function), *stored_names([scope.function])}
        if node.id in names:
            for name in sorted(names - {node.id}):
                yield ast.Name(id=name, ctx=ast.Load())


def change_function(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`min` for `max`, `upper` for `lower`, and a forgotten `sorted` or `abs`."""
    node = slot.node
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name):
        other = _FUNCTIONS.get(node.func.id)
        if other:
            called = ast.Name(id=other, ctx=ast.Load())
            yield ast.Call(func=called, args=node.args, keywords=node.keywords)
        elif node.func.id in _FORGETTABLE and node.args:
            yield node.args[0]
    elif isinstance(node.func, ast.Attribute):
        other = _METHODS.get(node.func.attr)
        if other:
            method = ast.Attribute(value=node.func.value, attr=other, ctx=ast.Load())
            yield ast.Call(func=method, args=node.args, keywords=node.keywords)
        elif not node.args and isinstance(slot.parent, ast.expr):
            yield node.func.value


def swap_arguments(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """The first two arguments of a call in the wrong order."""
    node = slot.node
    if isinstance(node, ast.Call) and len(node.args) > 1:
        args = [node.args[1], node.args[0], *node.args[2:]]
        yield ast.Call(func=node.func, args=args, keywords=node.keywords)


def swap_ternary(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """The two values of `a if c else b` in the wrong order."""
    node = slot.node
    if isinstance(node, ast.IfExp):
        yield ast.IfExp(test=node.test, body=node.orelse, orelse=node.body)


def drop_statement(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """A forgotten statement: a whole guard, a loop's step, an else branch."""
    node = block.statements[start]
    if isinstance(node, ast.If) and node.orelse:
        without_else = ast.If(test=node.test, body=node.body, orelse=[])
        yield Splice(length=1, statements=[without_else])
    elif len(block.statements) > 1 and not isinstance(node, ast.FunctionDef | ast.Return):
        yield Splice(length=1, statements=[])


def unguard_statement(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if c: A` as A alone: the condition forgotten."""
    node = block.statements[start]
    if isinstance(node, ast.If) and not node.orelse:
        yield Splice(length=1, statements=node.body)


def change_jump(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`break` for `continue`, and the other way round."""
    node = block.statements[start]
    if isinstance(node, ast.Break):
        yield Splice(length=1, statements=[ast.Continue()])
    elif isinstance(node, ast.Continue):
        yield Splice(length=1, statements=[ast.Break()])


def change_step(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x += y` as `x -= y` or as `x = y`."""
    node = block.statements[start]
    if isinstance(node, ast.AugAssign):
        for new in _OPERATORS.get(type(node.op), ()):
            changed = ast.AugAssign(target=node.target, op=new(), value=node.value)
            yield Splice(length=1, statements=[changed])
        forgotten = ast.Assign(targets=[node.target], value=node.value)
        yield Splice(length=1, statements=[forgotten])


MUTATIONS: dict[str, Rule] = {
    "comparison": rule_on_expressions(change_comparison),
    "number": rule_on_expressions(change_number),
    "constant": rule_on_expressions(change_constant),
    "operator": rule_on_expressions(change_operator),
    "operand order": rule_on_expressions(swap_operands),
    "and/or": rule_on_expressions(swap_and_or),
    "lost operand": rule_on_expressions(drop_operand),
    "negation": rule_on_expressions(change_negation),
    "bound": rule_on_expressions(shift_bound),
    "slice": rule_on_expressions(change_slice),
    "variable": rule_on_expressions(change_variable),
    "function": rule_on_expressions(change_function),
    "argument order": rule_on_expressions(swap_arguments),
    "ternary": rule_on_expressions(swap_ternary),
    "lost statement": rule_on_blocks(drop_statement),
    "lost condition": rule_on_blocks(unguard_statement),
    "jump": rule_on_blocks(change_jump),
    "step": rule_on_blocks(change_step),
}


def mutate_once(
    source: str, *, functions: frozenset[str], rng: random.Random
) -> EditedProgram | None:
    """The program after one mutation of one of its `functions`; None where nothing fits."""
    return edit_once(source, MUTATIONS, functions=functions, keywords=frozenset(), rng=rng)
