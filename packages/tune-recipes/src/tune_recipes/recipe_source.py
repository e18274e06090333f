"""Reads the `Config` of a recipe file without running the recipe, so without importing torch.

A recipe imports torch at its top. Its options are known from less: the class `Config` and, transitively, the
top-level definitions and imports whose names it uses. Only those are executed.
"""

import ast
import builtins
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec

from tune_recipes.errors import UserError
from tune_recipes.files import read_text


def read_config_class(recipe: Path) -> type[msgspec.Struct]:
    """Return the class `Config` that the recipe file declares.

    Raises:
        UserError: The file is not Python, or declares no msgspec Struct of that name.
    """
    source = read_text(recipe)
    try:
        tree = ast.parse(source, filename=str(recipe))
    except SyntaxError as error:
        raise UserError(f"{recipe}:{error.lineno}: not valid Python: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a null byte; brackets nested too deep
        raise UserError(f"{recipe}: not valid Python: {error}") from None
    body = _closure(tree, "Config")
    if not body:
        raise UserError(
            f"{recipe}: declares no class Config, so it is not a recipe\n"
            "  `tune cp full_finetune mine.py` copies one to start from"
        )
    module = _execute(recipe, source, body)
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        raise UserError(f"{recipe}: Config must be a class derived from tune_recipes.schema.Options")
    try:
        msgspec.json.Decoder(config)  # resolves every annotation
    except (NameError, TypeError) as error:
        raise UserError(f"{recipe}: its Config cannot be read: {type(error).__name__}: {error}") from None
    return config


def _closure(tree: ast.Module, start: str) -> list[ast.stmt]:
    """Return the top-level statements that `start` needs, in the order of the file."""
    bindings: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _bound_names(statement):
            bindings.setdefault(name, []).append(statement)
    if start not in bindings:
        return []
    needed: set[ast.stmt] = set()
    names = [start]
    while names:
        name = names.pop()
        # What no statement binds, and is not Python's own, can only come from a `import *`.
        for statement in bindings.get(name) or ([] if hasattr(builtins, name) else bindings.get("*", [])):
            if statement not in needed:
                needed.add(statement)
                names += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
                names += [name for text in _string_annotations(statement) for name in _names_in(text)]
    future = [s for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    return [*future, *(s for s in tree.body if s in needed and s not in future)]


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds, also inside a top-level `if` or `try`."""
    for node in ast.walk(statement) if isinstance(statement, ast.If | ast.Try | ast.With) else [statement]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (leaf.id for t in targets for leaf in ast.walk(t) if isinstance(leaf, ast.Name))


def _string_annotations(statement: ast.stmt) -> Iterator[str]:
    """Texts in annotations that stand for types; those in `Literal["a", "b"]` are values."""
    for node in ast.walk(statement):
        if isinstance(node, ast.AnnAssign):
            values = {
                id(leaf)
                for part in ast.walk(node.annotation)
                if isinstance(part, ast.Subscript) and ast.unparse(part.value).endswith("Literal")
                for leaf in ast.walk(part.slice)
            }
            for leaf in ast.walk(node.annotation):
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and id(leaf) not in values:
                    yield leaf.value


def _names_in(expression: str) -> list[str]:
    try:
        return [
            node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)
        ]
    except SyntaxError:
        return []


def _execute(recipe: Path, source: str, body: list[ast.stmt]) -> ModuleType:
    """Execute the statements as a module of their own, with the recipe's folder importable."""
    digest = hashlib.sha256(f"{recipe.resolve()}\0{source}".encode()).hexdigest()[:12]
    module = ModuleType(f"_tune_recipe_{digest}")
    module.__file__ = str(recipe)
    sys.modules[module.__name__] = module  # msgspec resolves annotations through it
    folder = str(recipe.resolve().parent)
    sys.path.insert(0, folder)
    try:
        exec(compile(ast.Module(body, type_ignores=[]), str(recipe), "exec"), module.__dict__)
    except Exception as error:
        line = _line_in(recipe, error)
        raise UserError(
            f"{recipe}:{line}: its Config cannot be read: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    module.__dict__["__source__"] = source
    return module


def _line_in(recipe: Path, error: BaseException) -> int:
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(recipe):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def field_docs(config: type) -> dict[str, str]:
    """Return the documentation of each field: the string that stands after it, in the class or its bases."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if issubclass(cls, msgspec.Struct) and cls.__module__ != msgspec.Struct.__module__:
            docs |= _module_docs(cls.__module__).get(cls.__name__, {})
    return docs


@functools.cache
def _module_docs(module_name: str) -> dict[str, dict[str, str]]:
    module = sys.modules[module_name]
    try:
        source = module.__dict__.get("__source__") or inspect.getsource(module)
    except (OSError, TypeError):  # typed into an interpreter, or shipped without its source
        return {}
    return {
        node.name: dict(_attribute_docs(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }


def _attribute_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(text.value.value)
