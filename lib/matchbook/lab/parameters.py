"""The typed `parameters` cell of a notebook, and `name=value` strings read by its types.

The cell is parsed, never executed, so that a misspelt name or a wrong type is refused before
a kernel starts. Unusual: the comment behind each parameter is part of it; errors quote it.
"""

import ast
import io
import json
import math
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matchbook.lab.profiles import PROFILES, nearest

Scalar = int | float | str | bool
Value = Scalar | list[Scalar] | None

_TYPES = "int, float, str, bool or list[...] of one of them, optionally with `| None`"
_PYTHON_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class UsageError(ValueError):
    """What was asked for does not exist or is malformed: exit code 2, nothing is run."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line of the parameters cell: `seeds: int | None = None  # independent repetitions`."""

    name: str
    kind: str  # int, float, str or bool; of the elements where it is a list
    is_list: bool
    optional: bool
    default: Value
    comment: str

    @property
    def annotation(self) -> str:
        """The type as it is written in the notebook, such as `list[str]` or `int | None`."""
        inner = f"list[{self.kind}]" if self.is_list else self.kind
        return f"{inner} | None" if self.optional else inner

    def describe(self) -> str:
        return f"{self.name}: {self.annotation} = {self.default!r}  # {self.comment}"

    def accepts(self, value: object) -> bool:
        """Whether a Python value has this type; an int is also a float, a bool is not an int."""
        if value is None:
            return self.optional
        if self.is_list:
            return isinstance(value, list) and all(_is_kind(item, self.kind) for item in value)
        return _is_kind(value, self.kind)


@dataclass(frozen=True, kw_only=True)
class ParametersCell:
    """The parameters in their order, and the table of sizes: profile -> parameter -> value."""

    parameters: Mapping[str, Parameter]
    sizes: Mapping[str, Mapping[str, Value]]

    def check_profile(self, profile: str) -> None:
        """Raises `UsageError` where the table of sizes has no such column."""
        columns = list(self.sizes) or list(PROFILES)
        if profile not in columns:
            raise UsageError(
                f"unknown profile {profile!r}{nearest(profile, columns)}\n"
                f"profiles of this notebook: {', '.join(columns)}"
            )

    def parse(self, assignments: Iterable[str]) -> dict[str, Value]:
        """`["steps=20", "learning_rate=1e-4"]` -> values of the declared types.

        Raises:
            UsageError: for an unknown or mistyped parameter, listing the valid ones.
        """
        values: dict[str, Value] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            name = name.strip()
            if not equals:
                raise UsageError(f"expected name=value, got {assignment!r}")
            if name == "profile":
                raise UsageError("the profile is chosen with --profile, not with -p")
            if name not in self.parameters:
                near = nearest(name, list(self.parameters))
                raise UsageError(f"unknown parameter {name!r}{near}\n{self._valid()}")
            try:
                values[name] = parse_value(text.strip(), self.parameters[name])
            except ValueError as error:
                raise UsageError(f"parameter {name!r}: {error}\n{self._valid()}") from None
        return values

    def resolve(self, name: str, profile: str, given: Mapping[str, Value]) -> Value:
        """What the notebook will see: given by the user, else its default, else the profile's."""
        value = given[name] if name in given else self.parameters[name].default
        return self.sizes.get(profile, {}).get(name) if value is None else value

    def _valid(self) -> str:
        shown = [p.describe() for p in self.parameters.values() if p.name != "profile"]
        return "valid parameters:" + "".join(f"\n  {line}" for line in shown)


def parse_value(text: str, parameter: Parameter) -> Value:
    """Reads one value by its declared type: `1e-4` is a float, `5` an int, and a float if asked.

    Lists are JSON (`["a", "b"]`) or comma separated (`a,b`); booleans are true or false; an
    optional parameter takes none.

    Raises:
        ValueError: naming the expected type and what came.
    """
    if parameter.optional and text.lower() in ("none", "null"):
        return None
    if not parameter.is_list:
        return _parse_scalar(text, parameter.kind)
    if not text.startswith("["):
        return [_parse_scalar(part.strip(), parameter.kind) for part in text.split(",")]
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON list, got {text!r} ({error})") from None
    items = [float(i) if parameter.kind == "float" and _is_kind(i, "int") else i for i in items]
    if not parameter.accepts(items):
        raise ValueError(f"expected {parameter.annotation}, got {text!r}")
    return items


def _parse_scalar(text: str, kind: str) -> Scalar:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}")
        return text.lower() == "true"
    try:
        if kind == "int":
            return int(text)
        value = float(text)
    except ValueError:
        hint = " (write it out in digits)" if kind == "int" and _looks_like_float(text) else ""
        raise ValueError(f"expected {kind}, got {text!r}{hint}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite float, got {text!r}")
    return value


def parse_parameters_cell(source: str) -> ParametersCell:
    """Reads the cell and checks its rules.

    Raises:
        ValueError: naming the line that breaks a rule: every parameter has a type, a literal
            default and a trailing comment; `profile` is there; the columns of `sizes` hold the
            same knobs, each `| None = None` above and of its declared type.
    """
    comments = _comments(source)
    parameters: dict[str, Parameter] = {}
    sizes: dict[str, dict[str, Value]] = {}
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as default):
                comment = comments.get(statement.end_lineno or statement.lineno, "")
                parameters[name] = _parameter(name, statement.annotation, default, comment)
            case ast.Assign(targets=[ast.Name(id="sizes")], value=value):
                sizes = _literal("sizes", value)
            case _:
                raise ValueError(
                    "expected only lines such as `steps: int = 5  # optimizer steps` and the table "
                    f"`sizes`, got line {statement.lineno}: {ast.unparse(statement)!r}"
                )
    profile = parameters.get("profile")
    if profile is None or profile.annotation != "str" or profile.default != "laptop":
        raise ValueError('expected a parameter `profile: str = "laptop"  # ...`')
    _check_sizes(sizes, parameters)
    return ParametersCell(parameters=parameters, sizes=sizes)


def _parameter(name: str, annotation: ast.expr, default: ast.expr, comment: str) -> Parameter:
    optional, inner = False, annotation
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            optional, inner = True, left
    match inner:
        case ast.Name(id=kind):
            is_list = False
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name(id=kind)):
            is_list = True
        case _:
            kind, is_list = "", False
    if kind not in _PYTHON_TYPES:
        raise ValueError(
            f"parameter {name!r}: expected a type {_TYPES}, got {ast.unparse(annotation)!r}"
        )
    if not comment:
        raise ValueError(f"parameter {name!r}: expected a trailing comment that says what it is")
    parameter = Parameter(
        name=name,
        kind=kind,
        is_list=is_list,
        optional=optional,
        default=_literal(name, default),
        comment=comment,
    )
    if not parameter.accepts(parameter.default):
        raise ValueError(
            f"parameter {name!r}: expected a default of type {parameter.annotation}, "
            f"got {parameter.default!r}"
        )
    return parameter


def _check_sizes(sizes: object, parameters: Mapping[str, Parameter]) -> None:
    if not isinstance(sizes, dict) or not all(
        isinstance(column, dict) for column in sizes.values()
    ):
        raise ValueError("expected sizes = {profile: {parameter: value}}")
    if sizes and ("laptop" not in sizes or set(sizes) - set(PROFILES)):
        raise ValueError(
            f"sizes: expected a column 'laptop' and others of {PROFILES}, got {list(sizes)}"
        )
    knobs = {name for name, p in parameters.items() if p.optional and p.default is None}
    for profile, column in sizes.items():
        if unknown := set(column) - knobs:
            raise ValueError(
                f"sizes[{profile!r}]: expected parameters declared `| None = None` above, "
                f"got {sorted(unknown)}"
            )
        if unlike := set(column) ^ set(sizes["laptop"]):
            raise ValueError(f"sizes[{profile!r}] and sizes['laptop'] differ in {sorted(unlike)}")
        for name, value in column.items():
            if not parameters[name].accepts(value):
                expected = parameters[name].annotation
                raise ValueError(
                    f"sizes[{profile!r}][{name!r}]: expected {expected}, got {value!r}"
                )


def _literal(name: str, node: ast.expr):
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{name!r}: expected a literal, got {ast.unparse(node)!r}") from None


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _is_kind(value: object, kind: str) -> bool:
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is _PYTHON_TYPES[kind]


def _looks_like_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
