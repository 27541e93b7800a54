"""One dataclass is a program's flags, its YAML keys and its record.

    @dataclass
    class TrainConfig(RunConfig):
        lr: float = option(5e-5, "learning rate of Adam")
        opt_cam: bool = option(False, "estimate the cameras too")

    python sof/train.py -c configs/sof/tiny.yml --lr 1e-3 --opt_cam          flags beat the YAML file, which beats the defaults

Fields are bool, int, float or str, a list of one of them, and any of these or None. YAML scalars are read as the text they are written
with, by the readers of the flags: `5e-5` is a number, `no` a name, and both sources refuse the same things in the same words.
"""
from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

import configargparse
import yaml

from common.errors import InputError, exit_codes
from common.files import replacing

TRUE, FALSE, NONE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}, {"none", "null", "~", ""}
EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def option(default, help: str, *, choices: Iterable | None = None, low: float | None = None, positional: bool = False, short: str | None = None,
           free: bool = False):
    """A field of a config: its default (`...` makes it required) and what it means, with unit and range.

    `choices` and `low` (the least value) are checked; `short` is an extra flag such as "-o"; `free` options may differ when a run is resumed.
    """
    value = {} if default is ... else {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    metadata = {"help": help, "choices": None if choices is None else tuple(choices), "low": low, "positional": positional, "short": short, "free": free}
    return dataclasses.field(**value, kw_only=True, metadata=metadata)


def parse(ConfigClass: type, argv: list[str] | None = None, description: str | None = None, prog: str | None = None):
    """The config of a command line (`sys.argv` by default): flags beat `-c/--config_filepath FILE.yml`, which beats the defaults.

    A field `name` left empty becomes the stem of the YAML file. `--help` prints and exits. Raises InputError naming the flag, or the file and key.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, add_config_file_help=False, config_file_parser_class=_yaml_parser(ConfigClass))
    parser.add_argument("-c", "--config_filepath", is_config_file_arg=True, metavar="FILE.yml", help="YAML file of these options; flags beat it")
    for field, kind in _fields(ConfigClass).values():
        _add(parser, field, kind)
    values, unknown = parser.parse_known_args(argv, env_vars={})
    if unknown:
        flag = unknown[0].split("=")[0]
        raise InputError(f"{flag}: no such option{nearest(flag, [flag for action in parser._actions for flag in action.option_strings])}")
    values = vars(values)
    path = values.pop("config_filepath", None)
    config = ConfigClass(**{name: None if value == [None] else value for name, value in values.items()})
    if path and getattr(config, "name", None) == "":
        config = dataclasses.replace(config, name=Path(path).stem)
    return config


def run_program(main: Callable, ConfigClass: type, description: str, argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line and call main(config); what a user gave wrong ends as one line and exit code 2 (`common.errors.exit_codes`)."""
    with exit_codes():
        main(parse(ConfigClass, argv, description, prog))


def run_commands(commands: dict[str, tuple[Callable, type]], description: str, argv: list[str] | None = None, default: str = "") -> None:
    """The same for a script of several commands {name: (main, ConfigClass)}: the first word of the command line chooses.

    `default` is the command meant where options come first.
    """
    argv = sys.argv[1:] if argv is None else argv
    if default and argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help"):
        argv = [default, *argv]
    script = Path(sys.argv[0]).name
    about = {name: (main.__doc__ or "").strip().partition("\n")[0] for name, (main, _) in commands.items()}
    with exit_codes():
        if not argv or argv[0] in ("-h", "--help"):
            lines = [f"usage: {script} COMMAND ...", "", description, "", *(f"  {name:<12} {line}" for name, line in about.items())]
            print("\n".join([*lines, "", f"{script} COMMAND --help shows the options of one."]), flush=True)
            sys.exit(0 if argv else 2)
        if argv[0] not in commands:
            raise InputError(f"{argv[0]}: no such command{nearest(argv[0], commands)}")
        main, ConfigClass = commands[argv[0]]
        main(parse(ConfigClass, argv[1:], about[argv[0]], f"{script} {argv[0]}"))


def save(config, path: str | Path) -> None:
    """Write every option of a config as YAML, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load(ConfigClass: type, path: str | Path, others: bool = False):
    """The config that `save` wrote, or any YAML file of its keys over the defaults; with `others` keys of other programs are passed over.

    Raises InputError naming the file and key.
    """
    values = _read_yaml(path)
    if others:
        values = {key: value for key, value in values.items() if key in _fields(ConfigClass)}
    return from_dict(ConfigClass, values, str(path))


def from_dict(ConfigClass: type, values: dict, where: str):
    """The config of {key: value} (a checkpoint's, say) over the defaults; values as they are or as text. Raises InputError naming `where` and the key."""
    return ConfigClass(**_read(ConfigClass, values, where))


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the name in `known` most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


# --- one option: from text to value, the same for flags and YAML ----------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class _Kind:
    element: type
    many: bool
    optional: bool


def _kind(hint) -> _Kind:
    """What a field's type says: its element type, whether it is a list, whether it may be None."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    plain = [member for member in members if member is not types.NoneType]
    many = typing.get_origin(plain[0]) is list
    element = typing.get_args(plain[0])[0] if many else plain[0]
    assert len(plain) == 1 and element in EXPECTED, f"a config field of type {hint}"
    return _Kind(element, many, len(plain) < len(members))


def _fields(ConfigClass: type) -> dict[str, tuple[dataclasses.Field, _Kind]]:
    hints = typing.get_type_hints(ConfigClass)
    return {field.name: (field, _kind(hints[field.name])) for field in dataclasses.fields(ConfigClass)}


def _reader(field: dataclasses.Field, kind: _Kind) -> Callable[[str], typing.Any]:
    """The function that turns one text into this option's value, or says what was expected."""
    choices, low = field.metadata["choices"], field.metadata["low"]

    def read(text: str):
        if kind.optional and text.lower() in NONE:
            return None
        try:
            value = _scalar(kind.element, text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {EXPECTED[kind.element]}{' or none' * kind.optional}, got {text!r}") from None
        if choices and value not in choices:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(map(str, choices))}, got {text!r}{nearest(text, map(str, choices))}")
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"expected {low} or more, got {text!r}")
        return value

    return read


def _scalar(element: type, text: str):
    if element is bool:
        if text.lower() not in TRUE | FALSE:
            raise ValueError
        return text.lower() in TRUE
    value = element(text)
    if element is float and not math.isfinite(value):
        raise ValueError
    return value


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field, kind: _Kind) -> None:
    """The flag (or positional argument) of one field."""
    about, required = field.metadata, field.default is field.default_factory is dataclasses.MISSING
    default = None if required else field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    shown = "" if required else f" (default: {' '.join(map(str, default)) if isinstance(default, list) else default if default != '' else 'empty'})"
    more = {"type": _reader(field, kind), "help": (about["help"] + shown).replace("%", "%%")}
    more["metavar"] = "{" + ",".join(map(str, about["choices"])) + "}" if about["choices"] else kind.element.__name__.upper()
    if kind.many:
        more["nargs"] = "*"
    elif kind.element is bool:
        more |= {"nargs": "?", "const": True, "metavar": "BOOL"}
    if about["positional"]:
        more |= {"metavar": field.name.upper()} | ({} if required or kind.many else {"nargs": "?"})
        parser.add_argument(field.name, default=default, **more)
    else:
        flags = [flag for flag in (about["short"], f"--{field.name}") if flag]
        parser.add_argument(*flags, default=default, required=required, **more)


# --- the YAML file ---------------------------------------------------------------------------------------------------------------------

class _Parser(configargparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(message.removeprefix("argument "))


def _yaml_parser(ConfigClass: type) -> type:
    """configargparse's reader of config files, for these options: checked here, where the file's name is known, then handed on as text."""

    class YamlParser(configargparse.ConfigFileParser):
        def parse(self, stream) -> dict[str, str | list[str]]:
            texts = _read_yaml(stream.name)
            _read(ConfigClass, texts, stream.name)
            return texts

    return YamlParser


class _Texts(yaml.BaseLoader):
    """YAML whose scalars stay text and whose keys come once."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: str | Path) -> dict:
    """{key: text or list} of a YAML file; empty for an empty file."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Texts)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a YAML file of options") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from None
    if values in (None, ""):
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected lines of 'key: value', not a {type(values).__name__}")
    return values


def _read(ConfigClass: type, values: dict, where: str) -> dict:
    """The values of the keys of {key: text, list or plain value}, each through its option's reader."""
    fields, read = _fields(ConfigClass), {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{where}: {key}: no such option{nearest(str(key), fields)}")
        field, kind = fields[key]
        many = isinstance(value, list)
        if isinstance(value, dict) or (many and (not kind.many or any(isinstance(item, list | dict) for item in value))):
            raise InputError(f"{where}: {key}: expected {'a list of ' * kind.many}{EXPECTED[kind.element]}, not {'a list' if many else 'keys and values'}")
        try:
            items = [_reader(field, kind)(str(item)) for item in (value if many else [value])]
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{where}: {key}: {error}") from None
        read[key] = items if kind.many and items != [None] else items[0]
    return read
