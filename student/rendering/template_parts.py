"""A chat template that remembers what its loops wrote, because the prompts of a conversation repeat each other.

A loop over the tools is rendered once for a list of tools. A loop over messages goes on where it ended for a shorter
prompt, if its body reads no more than its message, earlier messages, the next one, and values from before the loop.
Other loops, such as one that sets a namespace, are rendered each time. The text is that of transformers'
apply_chat_template, whose environment compiles the template here too.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import is_
from typing import Any

from jinja2 import Template, Undefined, nodes

_TOOLS, _MESSAGES = "stillhouse_tools", "stillhouse_messages"
# Functions that a template may call and whose result depends on their arguments alone.
_PURE = {"range", "dict", "namespace", "raise_exception"}
_IMPURE = {"caller", "varargs", "kwargs", "self", "super", "loop"}
_IMPURE_FILTERS = {"random"}
# What a remembered loop may consist of, beside loops; what it may not, though it is an expression.
_STATEMENTS = (nodes.Output, nodes.If, nodes.Assign, nodes.AssignBlock, nodes.FilterBlock)
_OUTSIDE = (
    *(nodes.ContextReference, nodes.DerivedContextReference, nodes.EnvironmentAttribute),
    *(nodes.ExtensionAttribute, nodes.ImportedName, nodes.InternalName, nodes.NSRef),
)
_Simple = str | int | float | None


class Parts:
    """What a template's loops wrote for one conversation.

    Args:
        messages: those of the conversation, which its prompts share as objects. The list may grow.
        tools: the list of tools that the template gets.
        of_tools: what loops over these tools wrote in other conversations; more is added.
    """

    def __init__(self, messages: Sequence[Any], tools: Any, of_tools: dict[Any, str]) -> None:
        self._messages, self._tools, self._of_tools = messages, tools, of_tools
        self._places: dict[int, int] = {}
        self._begun: dict[Any, list[str]] = {}

    def variables(self) -> dict[str, Any]:
        """What the compiled template calls."""
        return {_TOOLS: self._over_tools, _MESSAGES: self._over_messages}

    def _over_tools(self, number: int, tools: Any, *values: Any, caller: Any) -> str:
        """The text of loop `number`. values: what it reads, beside the tools."""
        key = _key([number], values, {})
        if tools is not self._tools or key is None:
            return caller()
        if key not in self._of_tools:
            self._of_tools[key] = caller()
        return self._of_tools[key]

    def _over_messages(
        self,
        number: int,
        items: Any,
        neighbours: Any,
        back: int,
        ahead: int,
        *values: Any,
        caller: Callable[..., str],
    ) -> str:
        """The text of loop `number` over items.

        neighbours: the list of which the body reads up to `back` earlier and `ahead` later items; None if it does not.
        values: what it reads from before the loop.
        """
        listed = items if isinstance(items, list) else list(items)
        count = len(listed)

        def text(places: range) -> list[str]:
            return [caller(listed[place], _Loop(place, count)) for place in places]

        begun = None
        if neighbours is None or neighbours is items:
            begun = self._begun_by(number, listed, values)
        if begun is None:
            return "".join(text(range(count)))
        # The first ones would read the last item instead of one before the first; the last ones see the list's end.
        first = min(back, count)
        last = max(first, count - ahead)
        for place in range(first + len(begun) - 1, last):
            begun.append(begun[-1] + text(range(place, place + 1))[0])
        return "".join([*text(range(first)), begun[last - first], *text(range(last, count))])

    def _begun_by(self, number: int, items: list[Any], values: tuple[Any, ...]) -> Any:
        """The texts of the first 0, 1, ... items after those that are rendered each time; None if unknown."""
        for place in range(len(self._places), len(self._messages)):
            self._places[id(self._messages[place])] = place
        start = self._places.get(id(items[0]), -1) if items else -1
        if start < 0 or len(items) > len(self._messages) - start:
            return None
        if not all(map(is_, items, islice(self._messages, start, None))):
            return None
        key = _key([number, start], values, self._places)
        return None if key is None else self._begun.setdefault(key, [""])


class _Loop:
    """What a body reads of `loop`."""

    __slots__ = ("first", "index", "index0", "last")

    def __init__(self, place: int, count: int) -> None:
        self.first, self.last = place == 0, place == count - 1
        self.index0, self.index = place, place + 1


def _key(key: list[Any], values: Iterable[Any], places: dict[int, int]) -> tuple[Any, ...] | None:
    """A key with values; None if one is neither simple nor a message. places: of the messages, by their id()."""
    for value in values:
        if isinstance(value, _Simple):
            key.append((type(value), value))  # 1, 1.0 and True are three
        elif isinstance(value, Undefined):
            key.append(Undefined)
        elif id(value) in places:
            key.append(places[id(value)])
        else:
            return None
    return tuple(key)


# ------------------------------------------------------------------------------------- templates


@functools.lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """The template, in which loops call `Parts`."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    tree = environment.parse(template)
    _Marker(tree).mark(tree.body)
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))


class _Unknown(Exception):
    """A part of a template may read or do more than is known."""


@dataclass
class _Reads:
    """What a loop reads from outside.

    values: names, messages[0] and fields of namespaces. lists: the lists of which items near the loop's own are read.
    """

    values: list[nodes.Expr] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)
    back: int = 0
    ahead: int = 0

    def add(self, value: nodes.Expr) -> None:
        if value not in self.values:
            self.values.append(value)


class _Marker:
    """Has the loops of a template that can be remembered call `Parts`."""

    def __init__(self, tree: nodes.Template) -> None:
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self._namespaces = {
            assigned.target.name
            for assigned in tree.find_all(nodes.Assign)
            if isinstance(assigned.target, nodes.Name)
            and isinstance(assigned.node, nodes.Call)
            and assigned.node.node == _name("namespace")
        }
        self._count = 0

    def mark(self, statements: list[Any], in_loop: bool = False) -> None:
        """Replaces the loops among some statements. in_loop: these are in another loop."""
        for place, node in enumerate(statements):
            if isinstance(node, nodes.For):
                statements[place] = self._marked(node, in_loop)
            elif isinstance(node, nodes.If):
                for branch in (node.body, node.elif_, node.else_):
                    self.mark(branch, in_loop)

    def _marked(self, loop: nodes.For, in_loop: bool) -> nodes.Node:
        tools, target = _name("tools"), loop.target
        if loop.iter == tools and (reads := self._reads([loop])):
            others = [value for value in reads.values if value != tools]
            return self._call(_TOOLS, [tools, *others], [], [loop], loop)
        if (
            isinstance(target, nodes.Name)
            and not (in_loop or loop.recursive or loop.test or loop.else_)
            and (reads := self._reads(loop.body, target.name))
            and len(reads.lists) < 2
        ):
            lists: list[nodes.Expr] = [_name(name) for name in reads.lists] or [nodes.Const(None)]
            reach = [nodes.Const(reads.back), nodes.Const(reads.ahead)]
            values = [*lists, *reach, *reads.values]
            items: Any = loop.iter
            return self._call(_MESSAGES, [items, *values], [target.name, "loop"], loop.body, loop)
        self.mark(loop.body, in_loop=True)
        return loop

    def _call(
        self,
        name: str,
        values: list[nodes.Expr],
        arguments: list[str],
        body: list[nodes.Node],
        loop: nodes.For,
    ) -> nodes.Node:
        """A block that calls a function of `Parts` with values; that calls its body with arguments."""
        self._count += 1
        call = nodes.Call(_name(name), [nodes.Const(self._count), *values], [], None, None)
        parameters = [nodes.Name(argument, "param") for argument in arguments]
        return nodes.CallBlock(call, parameters, [], body).set_lineno(loop.lineno)

    def _reads(self, body: list[nodes.Node], target: str | None = None) -> _Reads | None:
        """What a loop, or the body of one with a target, reads from outside; None if that is not known."""
        reads = _Reads()
        bound = frozenset() if target is None else frozenset([target])
        try:
            for node in body:
                self._visit(node, bound, target is not None, reads)
        except _Unknown:
            return None
        return reads

    def _visit(
        self, node: nodes.Node, bound: frozenset[str], has_loop: bool, reads: _Reads
    ) -> None:
        """Adds what a node reads. bound: names that loops gave. has_loop: `loop` is that of the body.

        A name that the body sets counts as read, because it may be set on one branch only.

        Raises:
            _Unknown: the node may do more.
        """
        if isinstance(node, nodes.For):
            if node.recursive:
                raise _Unknown
            self._visit(node.iter, bound, has_loop, reads)
            target = node.target
            names = [target] if isinstance(target, nodes.Name) else target.find_all(nodes.Name)
            inner = bound | {name.name for name in names} | {"loop"}
            for part in (*([node.test] if node.test else []), *node.body):
                self._visit(part, inner, False, reads)
            for part in node.else_:
                self._visit(part, bound, has_loop, reads)
        elif isinstance(node, nodes.Name):
            if node.ctx == "load" and node.name not in bound:
                self._visit_name(node, reads)
        elif isinstance(node, nodes.Filter) and node.name in _IMPURE_FILTERS:
            raise _Unknown
        elif _is_part(node) and self._is_known(node, bound, has_loop, reads):
            return
        elif isinstance(node, (nodes.Expr, nodes.Helper, *_STATEMENTS)) and not isinstance(
            node, _OUTSIDE
        ):
            for child in node.iter_child_nodes():
                self._visit(child, bound, has_loop, reads)
        else:
            raise _Unknown

    def _visit_name(self, node: nodes.Name, reads: _Reads) -> None:
        if node.name in _IMPURE:
            raise _Unknown
        if node.name in self._macros:
            self._check_macro(node.name)
        elif node.name not in _PURE:
            reads.add(node)

    def _check_macro(self, name: str) -> None:
        """Raises _Unknown if a macro reads more than its arguments."""
        macro = self._macros.pop(name)  # one that calls itself reads its own name
        try:
            bound = frozenset(argument.name for argument in macro.args)
            reads = _Reads()
            for part in (*macro.defaults, *macro.body):
                self._visit(part, bound, False, reads)
            if reads.values:
                raise _Unknown
        finally:
            self._macros[name] = macro

    def _is_known(self, node: Any, bound: frozenset[str], has_loop: bool, reads: _Reads) -> bool:
        """Adds a read of a part of an outer value that is known: loop.first, a namespace's field, messages[0]."""
        name = node.node.name
        if name == "loop" and has_loop:
            if not isinstance(node, nodes.Getattr) or node.attr not in _Loop.__slots__:
                raise _Unknown
            reads.ahead = max(reads.ahead, int(node.attr == "last"))
            return True
        if name in bound:
            return False
        if isinstance(node, nodes.Getattr):
            known = name in self._namespaces
        elif isinstance(node.arg, nodes.Const):
            known = isinstance(node.arg.value, int)
        else:
            if not has_loop:
                return False
            offset = _offset(node.arg)
            reads.lists.add(name)
            reads.back, reads.ahead = max(reads.back, -offset), max(reads.ahead, offset)
            return True
        if known:
            is_there = nodes.Test(node.node, "defined", [], [], None, None)
            reads.add(nodes.CondExpr(is_there, node, nodes.Const(None)))
        return known


def _name(name: str) -> nodes.Name:
    return nodes.Name(name, "load")


def _is_part(node: nodes.Node) -> bool:
    """Whether a node is NAME.field or NAME[index]."""
    return isinstance(node, nodes.Getattr | nodes.Getitem) and isinstance(node.node, nodes.Name)


def _offset(index: nodes.Node) -> int:
    """How far an index is from that of the loop: -1 for loop.index0 - 1.

    Raises:
        _Unknown: it is computed otherwise.
    """
    if isinstance(index, nodes.Getattr) and index.node == _name("loop"):
        if index.attr in ("index0", "index"):
            return int(index.attr == "index")
    elif isinstance(index, nodes.Add | nodes.Sub):
        number = index.right.value if isinstance(index.right, nodes.Const) else None
        if type(number) is int:
            return _offset(index.left) + (number if isinstance(index, nodes.Add) else -number)
    raise _Unknown
