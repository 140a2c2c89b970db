"""Typed configuration: dataclasses behind OmegaConf YAML.

A schema is a dataclass whose fields are made with :func:`opt` (a default and a sentence of documentation) or :func:`req`
(no default). YAML may name a base with ``extends: other.yaml`` (relative to the file), or several, later ones laid over
earlier. Unknown keys are refused with the nearest known key, wrong types with what was expected, and every problem is reported
at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from imanim.errors import ConfigError, InputError

C = TypeVar("C")


def opt(default: Any, doc: str) -> Any:
    """A field with a default. Mutable defaults (lists, dicts, dataclasses) are copied for every instance."""
    if dataclasses.is_dataclass(default) or isinstance(default, (list, dict)):
        import copy

        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata={"doc": doc})
    return dataclasses.field(default=default, metadata={"doc": doc})


def req(doc: str) -> Any:
    """A field the user must set."""
    return dataclasses.field(metadata={"doc": doc})


def load(
    schema: type[C],
    path: str | Path | Sequence[str | Path] | None,
    overrides: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
) -> C:
    """Reads a configuration.

    Args:
        schema: the dataclass to fill.
        path: the YAML file, several of them (each laid over the ones before), or None for defaults and overrides alone.
        overrides: ``key=value`` or ``a.b=value`` strings, values in YAML (``parts.retargeter.lr=1e-4``).
        settings: plain values laid over the files, under the overrides.

    Returns:
        An instance of ``schema`` whose own and nested ``problems()`` methods all returned nothing.

    Raises:
        ConfigError: with every problem found.
    """
    paths = [path] if isinstance(path, (str, Path)) else list(path or ())
    tree: dict[str, Any] = {}
    for each in [*(read_yaml(Path(p)) for p in paths), dict(settings or {})]:
        tree = merge(tree, each)
    problems: list[str] = []
    for text in overrides:
        _apply_override(tree, text, problems)
    cfg = _build(schema, tree, "", problems)
    # Values are only worth checking against each other once every one of them has its right type.
    problems += [] if problems else _own_problems(cfg, "")
    if problems:
        where = f"{', '.join(map(str, paths))}: " if paths else ""
        raise ConfigError([where + p for p in problems])
    return cfg


def from_dict(schema: type[C], tree: Mapping[str, Any], *, name: str = "config") -> C:
    """Builds and checks a schema from plain values (a saved ``config.json``). Raises ConfigError."""
    problems: list[str] = []
    cfg = _build(schema, dict(tree), "", problems)
    problems += [] if problems else _own_problems(cfg, "")
    if problems:
        raise ConfigError([f"{name}: {p}" for p in problems])
    return cfg


def to_dict(cfg: Any) -> Any:
    """A configuration as plain dicts, lists, strings and numbers (what ``from_dict`` reads back)."""
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        return {f.name: to_dict(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}
    if isinstance(cfg, Mapping):
        return {str(k): to_dict(v) for k, v in cfg.items()}
    if isinstance(cfg, (list, tuple)):
        return [to_dict(v) for v in cfg]
    if isinstance(cfg, enum.Enum):
        return cfg.value
    return str(cfg) if isinstance(cfg, Path) else cfg


def to_yaml(cfg: Any) -> str:
    """A configuration as YAML text that :func:`load` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(cfg)))


def help_text(schema: type) -> str:
    """Every key of a schema with its type, default and documentation: for ``--help``."""
    lines: list[str] = []
    _describe(schema, "", lines)
    return "settings (key=value):\n" + "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- reading


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's plain values, laid over what it extends. Raises InputError when it is missing or no such file."""
    if path.resolve() in seen:
        raise InputError(f"{path}: extends itself through {' -> '.join(p.name for p in seen)}; break the circle")
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; check --config (or `extends:`)")
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}; mend the file") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds {type(tree).__name__}, not `key: value` settings; mend the file")
    settings: dict[str, Any] = {str(key): value for key, value in tree.items()}
    base = settings.pop("extends", None)
    if base is None:
        return settings
    below: dict[str, Any] = {}
    for each in base if isinstance(base, list) else [base]:
        below = merge(below, read_yaml(path.parent / str(each), (*seen, path.resolve())))
    return merge(below, settings)


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``: mappings merge key by key, everything else replaces."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(dict(out[key]), value) if both else value
    return out


def _apply_override(tree: dict[str, Any], text: str, problems: list[str]) -> None:
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        problems.append(f"`{text}`: an override has the form key=value")
        return
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        problems.append(f"`{text}`: the value is not readable as YAML ({error})")
        return
    assert isinstance(parsed, dict)
    merged = merge(tree, {str(k): v for k, v in parsed.items()})
    tree.clear()
    tree.update(merged)


# --------------------------------------------------------------------------------------------------------- checking


def _build(schema: type, tree: Any, at: str, problems: list[str]) -> Any:
    if not isinstance(tree, Mapping):
        problems.append(f"{at or 'the file'}: expected settings (key: value), found {tree!r}")
        return None
    hints = typing.get_type_hints(schema)
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            remedy = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(fields)}"
            problems.append(f"{_join(at, str(key))}: unknown key; {remedy}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name in tree:
            values[name] = _convert(hints[name], tree[name], _join(at, name), problems)
        elif not has_default:
            problems.append(f"{_join(at, name)}: required, not set; {field.metadata.get('doc', 'give it a value')}")
    if problems and any(f not in values for f, d in fields.items() if _lacks_default(d)):
        return None
    return schema(**values)


def _lacks_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    """The value as the hinted type, or a problem. Nothing is guessed: "12" is no int, 1 is no bool."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, at, problems)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value if value is not None else {}, at, problems)
    if origin is typing.Literal:
        return value if value in args else _refuse(at, f"one of {', '.join(map(str, args))}", value, problems)
    if origin in (list, tuple):
        return _convert_sequence(origin, args, value, at, problems)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _refuse(at, "a mapping", value, problems)
        return {str(k): _convert(args[1], v, _join(at, str(k)), problems) for k, v in value.items()}
    return _convert_scalar(hint, value, at, problems)


def _convert_union(args: tuple[Any, ...], value: Any, at: str, problems: list[str]) -> Any:
    if value is None and type(None) in args:
        return None
    tries: list[list[str]] = []
    for option in args:
        if option is not type(None):
            found: list[str] = []
            converted = _convert(option, value, at, found)
            if not found:
                return converted
            tries.append(found)
    problems.extend(min(tries, key=lambda found: sum(1 for _ in found)))
    return None


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, at: str, problems: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _refuse(at, "a list", value, problems)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            return _refuse(at, f"{len(args)} values", value, problems)
        return tuple(_convert(a, v, f"{at}[{i}]", problems) for i, (a, v) in enumerate(zip(args, value)))
    return origin(_convert(args[0], v, f"{at}[{i}]", problems) for i, v in enumerate(value))


def _convert_scalar(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    if hint is bool:
        return value if isinstance(value, bool) else _refuse(at, "true or false", value, problems)
    if hint is int:
        whole = isinstance(value, float) and value.is_integer()
        ok = (isinstance(value, int) and not isinstance(value, bool)) or whole
        return int(value) if ok else _refuse(at, "a whole number", value, problems)
    if hint is float:
        # YAML 1.1 reads 1e-4 as a string: what a person means by it is not in doubt.
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return _refuse(at, "a number", value, problems)
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if ok else _refuse(at, "a number", value, problems)
    if hint is str:
        plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        return str(value) if plain else _refuse(at, "text", value, problems)
    if hint is Path:
        return Path(value) if isinstance(value, str) else _refuse(at, "a path", value, problems)
    raise TypeError(f"{at}: schema type {hint!r} is not supported by imanim.config")


def _refuse(at: str, expected: str, value: Any, problems: list[str]) -> None:
    problems.append(f"{at}: expected {expected}, found {value!r}")


def _own_problems(cfg: Any, at: str) -> list[str]:
    found: list[str] = []
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        for f in dataclasses.fields(cfg):
            found += _own_problems(getattr(cfg, f.name), _join(at, f.name))
        if hasattr(cfg, "problems"):
            found += [_join(at, p) for p in cfg.problems()]
    elif isinstance(cfg, Mapping):
        for key, value in cfg.items():
            found += _own_problems(value, _join(at, str(key)))
    elif isinstance(cfg, (list, tuple)):
        for i, value in enumerate(cfg):
            found += _own_problems(value, f"{at}[{i}]")
    return found


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


# ------------------------------------------------------------------------------------------------------------- help


def _describe(schema: type, at: str, lines: list[str]) -> None:
    hints = typing.get_type_hints(schema)
    for f in dataclasses.fields(schema):
        key, hint = _join(at, f.name), hints[f.name]
        nested = [a for a in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(a)]
        if nested and typing.get_origin(hint) not in (dict, list, tuple):
            _describe(typing.cast(type, nested[0]), key, lines)
            continue
        default = "required"
        if f.default is not dataclasses.MISSING:
            default = repr(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            default = repr(to_dict(f.default_factory()))
        kind = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")
        default = default if len(default) < 60 else default[:56] + " ..."
        lines.append(f"  {key} ({kind}, {default})\n      {f.metadata.get('doc', '')}")
