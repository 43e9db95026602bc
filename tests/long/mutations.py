"""Small wrong changes to a source file: what the runner of mutants puts in, one at a time."""

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_OTHER_LABELS = {"FRAME_SIGNATURE": "BUNDLE_SIGNATURE"}  # every other one becomes that of frames


@dataclass(frozen=True)
class Mutation:
    """One change. number: its place among all of the file's; what: in words; text: of the line that it is on."""

    file: str
    number: int
    line: int
    text: str
    what: str

    @property
    def key(self) -> str:
        """What the list of equivalent mutants calls it: stays when lines move."""
        return f"{self.file} :: {self.text} :: {self.what}"


@dataclass(frozen=True)
class Mutant:
    """A file with one change. lines: of the statement that it is in, without the block below it.

    function: qualified name and first line of the outermost function whose body it is in; None if it is outside.
    """

    tree: ast.Module
    lines: range
    function: tuple[str, int] | None


Change = tuple[ast.AST, str, Callable[[], None]]


def mutations(file: str, source: str) -> list[Mutation]:
    """All changes to a file. What is the same twice on a line is told apart by a number."""
    lines, again = source.splitlines(), Counter[tuple[int, str]]()
    found = []
    for number, (node, what, _) in enumerate(_changes(ast.parse(source))):
        line = getattr(node, "lineno", 1)
        again[line, what] += 1
        times = f" (number {again[line, what]})" if again[line, what] > 1 else ""
        found.append(Mutation(file, number, line, lines[line - 1].strip(), what + times))
    return found


def mutated(source: str, number: int) -> Mutant:
    """The file with one change in it."""
    tree = ast.parse(source)
    for at, (node, _, apply) in enumerate(_changes(tree)):
        if at == number:
            around = _around(node, tree)
            lines, function = _statement(around), _function(around)
            apply()
            return Mutant(ast.fix_missing_locations(tree), lines, function)
    raise ValueError(f"expected a change number below {number}")


def _around(node: ast.AST, tree: ast.Module) -> list[ast.AST]:
    # From the module to the node itself.
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    way = [node]
    while way[-1] is not tree:
        way.append(parents[way[-1]])
    return way[::-1]


def _statement(around: Sequence[ast.AST]) -> range:
    one = next(node for node in reversed(around) if isinstance(node, ast.stmt))
    body = getattr(one, "body", None)
    last = max(one.lineno, body[0].lineno - 1) if body else (one.end_lineno or one.lineno)
    return range(one.lineno, last + 1)


def _function(around: Sequence[ast.AST]) -> tuple[str, int] | None:
    name = ""
    for node, below in pairwise(around):
        match node:
            case ast.ClassDef():
                name += f"{node.name}."
            case ast.FunctionDef() if below in node.body:
                return name + node.name, min([node.lineno, *(one.lineno for one in node.decorator_list)])
            case ast.FunctionDef() | ast.Lambda():
                return None  # a default, or what builds one
    return None


def _changes(tree: ast.Module) -> Iterator[Change]:
    # All are found before any is made.
    yield from list(_in_block(tree))


def _in_block(node: ast.AST) -> Iterator[Change]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases") or _is_message(
            node, name
        ):
            continue
        if isinstance(value, list):
            for at, one in enumerate(value):
                if isinstance(one, ast.AST):
                    yield from _here(one, value, at)
                    yield from _in_block(one)
        elif isinstance(value, ast.AST):
            yield from _here(value, node, name)
            yield from _in_block(value)


def _is_message(node: ast.AST, name: str) -> bool:
    """Texts of errors, docstrings, and what is printed may say what they like."""
    return isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("_abort", "_end")
    )


def _put(holder: Any, at: Any, new: ast.AST) -> Callable[[], None]:
    def apply() -> None:
        if isinstance(holder, list):
            holder[at] = new
        else:
            setattr(holder, at, new)

    return apply


def _set(node: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(node, name, value)


def _here(node: ast.AST, holder: Any, at: Any) -> Iterator[Change]:
    def instead(new: ast.AST, what: str) -> Change:
        return node, what, _put(holder, at, ast.copy_location(new, node))

    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                for other in _COMPARISONS[type(op)]:
                    ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                    yield (
                        node,
                        f"{type(op).__name__} to {other.__name__} in {ast.unparse(node)}",
                        _set(node, "ops", ops),
                    )
        case ast.BoolOp():
            new = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, f"{type(new).__name__.lower()} in {ast.unparse(node)}", _set(node, "op", new)
        case ast.BinOp() | ast.AugAssign():
            other_op = _ARITHMETIC.get(type(node.op))
            if other_op and not _is_text(node):
                yield (
                    node,
                    f"{type(node.op).__name__} to {other_op.__name__} in {ast.unparse(node)}",
                    _set(node, "op", other_op()),
                )
            if isinstance(node, ast.AugAssign):
                yield instead(ast.Pass(), f"without {ast.unparse(node)}")
        case ast.Constant(value=value) if type(value) is int:
            for step in (1, -1):
                yield instead(ast.Constant(value + step), f"{value} to {value + step}")
        case ast.Constant(value=value) if isinstance(value, bytes):
            yield instead(ast.Constant(value + b"x"), f"{value!r} to {value + b'x'!r}")
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield instead(node.operand, f"without the {type(node.op).__name__} of {ast.unparse(node)}")
        case ast.If() | ast.IfExp() | ast.While():
            test = ast.unparse(node.test)
            if not isinstance(node, ast.While):
                yield node, f"if True, not {test}", _set(node, "test", ast.Constant(True))
            yield node, f"if False, not {test}", _set(node, "test", ast.Constant(False))
        case ast.Raise():
            yield instead(ast.Pass(), "without the raise")
        case ast.Expr(value=ast.Call()):
            yield instead(ast.Pass(), f"without {ast.unparse(node)}")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]) | ast.Delete():
            yield instead(ast.Pass(), f"without {ast.unparse(node)}")
        case ast.Return(value=ast.expr() as returned) if not isinstance(returned, ast.Constant):
            yield node, "returns None", _set(node, "value", ast.Constant(None))
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            yield node, f"{_CALLS[name]} for {name}", _set(node.func, "id", _CALLS[name])
        case ast.Attribute(value=ast.Name(id="Label"), attr=label):
            other_label = _OTHER_LABELS.get(label, "FRAME_SIGNATURE")
            yield node, f"{other_label} for {label}", _set(node, "attr", other_label)
        case ast.Break() | ast.Continue():
            yield instead(ast.Pass(), f"without {ast.unparse(node)}")


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in sides
    )
