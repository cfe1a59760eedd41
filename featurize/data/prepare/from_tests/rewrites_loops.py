"""Rewrites of loops that keep what a function does: for and while, comprehensions and loops."""

import ast
import copy
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Block, Splice
from featurize.data.prepare.from_tests.names import (
    Scope,
    fresh_name,
    is_number,
    is_pure,
    is_shadowed,
    loaded_names,
    stored_names,
)
from featurize.data.prepare.from_tests.rewrites_branches import assign, assigned_name, load
from featurize.data.prepare.from_tests.rewrites_expressions import negate

_CLOSURES = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.NamedExpr, ast.Yield, ast.Await)


def _contains(nodes: list[ast.stmt], kinds: tuple[type[ast.AST], ...]) -> bool:
    return any(isinstance(node, kinds) for root in nodes for node in ast.walk(root))


def _occurrences(root: ast.AST, name: str) -> int:
    return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(root))


def _is_private(scope: Scope, loop: ast.AST, name: str) -> bool:
    """Whether the variable occurs in this loop only."""
    inside = _occurrences(loop, name)
    return _occurrences(scope.function, name) == inside and name not in {
        argument.arg for argument in ast.walk(scope.function) if isinstance(argument, ast.arg)
    }


def for_to_while(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`for i in range(a, b): ...` as `i = a`, `while i < b: ...; i += 1`."""
    node = block.statements[start]
    if not isinstance(node, ast.For) or node.orelse or not isinstance(node.target, ast.Name):
        return
    call, name = node.iter, node.target.id
    if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Name):
        return
    if call.func.id != "range" or not 1 <= len(call.args) <= 2 or not is_pure(call):
        return
    # A `continue` would jump over the increment; a variable seen elsewhere would end one higher.
    if _contains(node.body, (*_CLOSURES, ast.Continue)) or name in stored_names(node.body):
        return
    if not _is_private(scope, node, name):
        return
    first = call.args[0] if len(call.args) == 2 else ast.Constant(value=0)
    stop, before = call.args[-1], [assign(name, first)]
    fixed = isinstance(stop, ast.Name) and stop.id not in stored_names(node.body)
    if not (fixed or isinstance(stop, ast.Constant)):
        limit = fresh_name(scope)
        before.insert(0, assign(limit, stop))
        stop = load(limit)
    target = ast.Name(id=name, ctx=ast.Store())
    step = ast.AugAssign(target=target, op=ast.Add(), value=ast.Constant(value=1))
    test = ast.Compare(left=load(name), ops=[ast.Lt()], comparators=[stop])
    loop = ast.While(test=test, body=[*node.body, step], orelse=[])
    yield Splice(length=1, statements=[*before, loop])


def while_to_break(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`while c: ...` as `while True: if not c: break; ...`."""
    node = block.statements[start]
    if isinstance(node, ast.While) and not node.orelse and not isinstance(node.test, ast.Constant):
        leave = ast.If(test=negate(node.test), body=[ast.Break()], orelse=[])
        always = ast.Constant(value=True)
        loop = ast.While(test=always, body=[leave, *node.body], orelse=[])
        yield Splice(length=1, statements=[loop])


def condition_to_continue(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """A loop's last `if c: A` as `if not c: continue`, then A."""
    node = block.statements[start]
    is_last = start == len(block.statements) - 1
    in_loop = isinstance(block.owner, ast.For | ast.While) and block.field == "body"
    if in_loop and is_last and isinstance(node, ast.If) and not node.orelse:
        skip = ast.If(test=negate(node.test), body=[ast.Continue()], orelse=[])
        yield Splice(length=1, statements=[skip, *node.body])


def enumerate_to_counter(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`for i, x in enumerate(y): ...` as a counter that the loop raises itself."""
    node = block.statements[start]
    if not isinstance(node, ast.For) or node.orelse or not isinstance(node.target, ast.Tuple):
        return
    call, targets = node.iter, node.target.elts
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        return
    counter = targets[0]
    if call.func.id != "enumerate" or len(call.args) != 1 or len(targets) != 2:
        return
    if not isinstance(counter, ast.Name) or not _is_private(scope, node, counter.id):
        return
    if _contains(node.body, (*_CLOSURES, ast.Continue)) or counter.id in stored_names(node.body):
        return
    target = ast.Name(id=counter.id, ctx=ast.Store())
    step = ast.AugAssign(target=target, op=ast.Add(), value=ast.Constant(value=1))
    loop = ast.For(target=targets[1], iter=call.args[0], body=[*node.body, step], orelse=[])
    yield Splice(length=1, statements=[assign(counter.id, ast.Constant(value=0)), loop])


def comprehension_to_loop(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x = [e for t in y if c]` (or a return of it) as a loop that appends."""
    node = block.statements[start]
    if not isinstance(node, ast.Return) and not assigned_name(node):
        return
    value = node.value if isinstance(node, ast.Return | ast.Assign) else None
    if not isinstance(value, ast.ListComp | ast.SetComp | ast.DictComp):
        return
    value = copy.deepcopy(value)
    if is_shadowed(scope, "set") or not _free_targets(value, scope):
        return
    name = fresh_name(scope)
    if isinstance(value, ast.ListComp):
        empty: ast.expr = ast.List(elts=[], ctx=ast.Load())
        step: ast.stmt = _method_call(name, "append", value.elt)
    elif isinstance(value, ast.SetComp):
        empty = ast.Call(func=load("set"), args=[], keywords=[])
        step = _method_call(name, "add", value.elt)
    else:
        empty = ast.Dict(keys=[], values=[])
        slot = ast.Subscript(value=load(name), slice=value.key, ctx=ast.Store())
        step = ast.Assign(targets=[slot], value=value.value)
    loop = _nest(value.generators, step)
    last: ast.stmt = ast.Return(value=load(name))
    if isinstance(node, ast.Assign):
        last = ast.Assign(targets=node.targets, value=load(name))
    yield Splice(length=1, statements=[assign(name, empty), loop, last])


def quantifier_to_loop(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`return all(c for x in y)` as a loop that returns False at the first failure; any alike.

    A sum becomes a loop too where it adds whole numbers (sum() of floats may round otherwise).
    """
    node = block.statements[start]
    call = node.value if isinstance(node, ast.Return) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        return
    if len(call.args) != 1 or not isinstance(call.args[0], ast.GeneratorExp):
        return
    inner = copy.deepcopy(call.args[0])
    if is_shadowed(scope, call.func.id) or not _free_targets(inner, scope):
        return
    if call.func.id in {"any", "all"}:
        found = call.func.id == "any"
        leave = ast.Return(value=ast.Constant(value=found))
        test = inner.elt if found else negate(inner.elt)
        loop = _nest(inner.generators, ast.If(test=test, body=[leave], orelse=[]))
        yield Splice(length=1, statements=[loop, ast.Return(value=ast.Constant(value=not found))])
    elif call.func.id == "sum" and is_number(inner.elt):
        name = fresh_name(scope)
        target = ast.Name(id=name, ctx=ast.Store())
        step = ast.AugAssign(target=target, op=ast.Add(), value=inner.elt)
        begin = assign(name, ast.Constant(value=0))
        loop = _nest(inner.generators, step)
        yield Splice(length=1, statements=[begin, loop, ast.Return(value=load(name))])


def loop_to_comprehension(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x = []`, `for t in y: x.append(e)` as `x = [e for t in y]`."""
    pair = block.statements[start : start + 2]
    if len(pair) != 2 or not isinstance(pair[0], ast.Assign) or not isinstance(pair[1], ast.For):
        return
    name, loop = assigned_name(pair[0]), pair[1]
    is_empty = isinstance(pair[0].value, ast.List) and not pair[0].value.elts
    if not name or not is_empty or loop.orelse or len(loop.body) != 1:
        return
    step: ast.stmt = loop.body[0]
    tests: list[ast.expr] = []
    if isinstance(step, ast.If) and not step.orelse and len(step.body) == 1:
        tests = [step.test]
        step = step.body[0]
    match step:
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id=receiver), attr="append"), args=[element]
            )
        ):
            pass
        case _:
            return
    targets = stored_names([loop.target])
    seen = loaded_names([element, loop.iter, *tests])
    if receiver != name or name in seen or not all(_is_private(scope, loop, t) for t in targets):
        return
    generator = ast.comprehension(target=loop.target, iter=loop.iter, ifs=tests, is_async=0)
    made = ast.ListComp(elt=element, generators=[generator])
    yield Splice(length=2, statements=[assign(name, made)])


def _free_targets(
    value: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, scope: Scope
) -> bool:
    """Rename the comprehension's variables where the function has others of the same name."""
    if any(isinstance(node, _CLOSURES) for node in ast.walk(value) if node is not value):
        return False
    if any(isinstance(node, ast.ListComp) for node in ast.walk(value) if node is not value):
        return False  # an inner comprehension may bind the same names once more
    taken = set(scope.taken)
    for target in sorted(stored_names(g.target for g in value.generators)):
        if _occurrences(scope.function, target) == _occurrences(value, target):
            continue
        new = fresh_name(scope, is_index=len(target) == 1)
        if new in taken or target in loaded_names([value.generators[0].iter]):
            return False
        taken.add(new)
        for node in ast.walk(value):
            if isinstance(node, ast.Name) and node.id == target:
                node.id = new
    names = [
        node.id
        for generator in value.generators
        for node in ast.walk(generator.target)
        if isinstance(node, ast.Name)
    ]
    return len(set(names)) == len(names)


def _nest(generators: list[ast.comprehension], step: ast.stmt) -> ast.stmt:
    for generator in reversed(generators):
        for test in reversed(generator.ifs):
            step = ast.If(test=test, body=[step], orelse=[])
        step = ast.For(target=generator.target, iter=generator.iter, body=[step], orelse=[])
    return step


def _method_call(name: str, method: str, argument: ast.expr) -> ast.Expr:
    function = ast.Attribute(value=load(name), attr=method, ctx=ast.Load())
    return ast.Expr(value=ast.Call(func=function, args=[argument], keywords=[]))
