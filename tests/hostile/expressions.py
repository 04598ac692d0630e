"""Every regular expression of the package with the way it is used, and texts that a backtracking matcher dislikes.

`regexploit` of the package index finds such expressions too, but has had no release since 2021, and does not know how
long a text may be where an expression is used.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import import_pipeline

METHODS = frozenset({"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"})
PUMPS = (" ", "a", "1", ":", "-", "<", "\\", "[", "(", "*", "\t", "a ", "1:", " -", "&")
ENDS = ("", "!", "\n\0")
_CHARACTERS = {
    constants.CATEGORY_DIGIT: "1",
    constants.CATEGORY_SPACE: " ",
    constants.CATEGORY_WORD: "a",
    constants.CATEGORY_NOT_DIGIT: "a",
    constants.CATEGORY_NOT_SPACE: "a",
    constants.CATEGORY_NOT_WORD: "-",
}


@dataclass(frozen=True)
class Expression:
    """A regular expression and one way in which it is used."""

    where: str
    pattern: re.Pattern[Any]
    method: str

    def __str__(self) -> str:
        return f"{self.where}.{self.method}"

    def run(self, text: str) -> None:
        """Use it as the package does."""
        given: Any = text.encode() if isinstance(self.pattern.pattern, bytes) else text
        match self.method:
            case "sub" | "subn":
                self.pattern.sub("" if isinstance(given, str) else b"", given)
            case "finditer" | "findall":
                self.pattern.findall(given)
            case _:
                getattr(self.pattern, self.method)(given)


@cache
def expressions() -> list[Expression]:
    """Return all of them: those that modules keep, and those that stand where they are used."""
    found: dict[tuple[Any, ...], Expression] = {}
    kept: dict[str, list[tuple[str, re.Pattern[Any]]]] = {}
    trees = []
    for info in pkgutil.walk_packages(import_pipeline.__path__, "import_pipeline."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        trees.append((info.name, ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))))
        for name, value in vars(module).items():
            for each in value.values() if isinstance(value, dict) else [value]:
                if isinstance(each, re.Pattern):
                    kept.setdefault(name, []).append((info.name, each))
    used: dict[str, set[str]] = {}
    for name, tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
                continue
            holder = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            if isinstance(holder, ast.Name):
                used.setdefault(holder.id, set()).add(node.attr)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                is_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                first = node.args[0]
                if is_re and node.func.attr in METHODS and isinstance(first, ast.Constant):
                    pattern = re.compile(first.value)
                    found[pattern, node.func.attr] = Expression(f"{name}:{node.lineno}", pattern, node.func.attr)
    for name, places in kept.items():
        for module_name, pattern in places:
            for method in sorted(used.get(name, set())) or ["match"]:
                found[pattern, method] = Expression(f"{module_name}.{name}", pattern, method)
    return list(found.values())


@dataclass(frozen=True)
class Attack:
    """What leads up to a repetition, what is repeated, and an end that does not fit."""

    lead: str
    pump: str
    end: str

    def text(self, length: int) -> str:
        return self.lead + self.pump * (length // len(self.pump)) + self.end


def attacks(expression: Expression) -> Iterator[Attack]:
    """Yield what may take an expression long, for each of its repetitions."""
    pattern = expression.pattern
    source = pattern.pattern.decode("latin-1") if isinstance(pattern.pattern, bytes) else pattern.pattern
    tree = parser.parse(source, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags)
    found = list(_repetitions(tree, ""))
    pumps = dict.fromkeys((*(pump for _, pump in found if pump), *PUMPS, _sample(tree) or "a"))
    for lead in dict.fromkeys(lead for lead, _ in found) or [""]:
        for pump in pumps:
            for end in ENDS:
                yield Attack(lead, pump, end)


def _repetitions(tree: Any, lead: str) -> Iterator[tuple[str, str]]:
    for operator, argument in tree:
        if operator in (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT):
            _, most, inner = argument
            if most is constants.MAXREPEAT or most > 8:
                yield lead, _sample(inner)
            yield from _repetitions(inner, lead)
        elif operator is constants.SUBPATTERN:
            yield from _repetitions(argument[3], lead)
        elif operator is constants.BRANCH:
            for each in argument[1]:
                yield from _repetitions(each, lead)
        elif operator in (constants.ASSERT, constants.ASSERT_NOT):
            yield from _repetitions(argument[1], lead)
        lead += _sample([(operator, argument)])


def _sample(tree: Any) -> str:
    """Return a short text that the expression takes, as far as it is easily told."""
    text = ""
    for operator, argument in tree:
        if operator is constants.LITERAL:
            text += chr(argument)
        elif operator is constants.NOT_LITERAL:
            text += "a" if argument != ord("a") else "b"
        elif operator is constants.ANY:
            text += "a"
        elif operator is constants.IN:
            text += _member(argument)
        elif operator in (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT):
            text += _sample(argument[2]) * max(1, min(argument[0], 8))
        elif operator is constants.SUBPATTERN:
            text += _sample(argument[3])
        elif operator is constants.ATOMIC_GROUP:
            text += _sample(argument)
        elif operator is constants.BRANCH:
            text += _sample(argument[1][0])
    return text


def _member(items: Any) -> str:
    excluded = items[0][0] is constants.NEGATE
    if excluded:
        inside = re.compile(
            "[" + "".join(re.escape(chr(value)) for kind, value in items if kind is constants.LITERAL) + "]"
        )
        return next(char for char in "a1 -:.x" if not inside.match(char)) if inside.pattern != "[]" else "a"
    kind, value = items[0]
    if kind is constants.LITERAL:
        return chr(value)
    if kind is constants.RANGE:
        return chr(value[0])
    return _CHARACTERS.get(value, "a")
