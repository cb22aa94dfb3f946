"""What all entries share: flags, short help, one-line errors and exit codes. Imports neither JAX nor a config.

Exit codes: 2 a mistake that the user can mend, 130 Ctrl-C, 141 the reader of our output went away.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from lra_tasks.errors import UserError, nearest

flags.disclaim_key_flags()  # what is defined here on behalf of an entry is that entry's flag

CONFIG = "config"
TRACEBACK = "traceback"
EXIT_MISTAKE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141


def run(main: Callable[[list[str]], int | None], usage: str, *, takes_arguments: bool = True) -> None:
    """Parses the command line, calls main(argv) and exits with what it returns (None counts as 0).

    Args:
        main: receives the program name and what is not a flag. UserError becomes one line and exit code 2.
        usage: shown by --help above the entry's own flags.
        takes_arguments: False refuses arguments that are not flags.
    """
    flags.DEFINE_bool(TRACEBACK, False, "show where an error was raised")
    try:
        if any(argument in ("-h", "--help", "-help") for argument in before_dashes(sys.argv[1:])):
            show_help(usage)
            leave(0)
        app.run(lambda argv: leave(call(main, argv)), flags_parser=lambda argv: parse(argv, takes_arguments))
    except KeyboardInterrupt:
        leave(EXIT_INTERRUPTED)
    except BrokenPipeError:
        leave(EXIT_BROKEN_PIPE)


def call(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """The exit code of main."""
    logging.set_verbosity(logging.WARNING)  # at absl's default JAX tells everybody without a TPU that they have none
    try:
        code = main(argv)
        sys.stdout.flush()
    except UserError as error:
        complain(str(error))
        return EXIT_MISTAKE
    return code or 0


def leave(code: int) -> None:
    """Ends the process; output that nobody can receive any more is dropped quietly."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        hush()
        code = code or EXIT_BROKEN_PIPE
    sys.exit(code)


def hush() -> None:
    """Points stdout to nowhere, so that Python's own flush at exit has nothing to complain about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """One line on stderr: results go to stdout, everything else here."""
    print(text, file=sys.stderr, flush=True)


report = say


def complain(message: str) -> None:
    """Prints `error: ` and the message on one line; the traceback first, if it was asked for."""
    if f"--{TRACEBACK}" in sys.argv:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments in front of a lone `--`."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def config_flag() -> flags.FlagHolder:
    """Defines the flag --config: a file whose get_config() gives a ConfigDict, locked; --config.KEY=VALUE overrides."""
    from ml_collections import config_flags

    meaning = "config file, as FILE.py or FILE.py:ARGUMENT; --config.KEY=VALUE overrides a key"
    holder = config_flags.DEFINE_config_file(CONFIG, None, meaning, lock_config=True)
    flags.mark_flag_as_required(CONFIG)
    return holder


def overridden_keys() -> list[str]:
    """The dotted config keys that were set on the command line."""
    from ml_collections import config_flags

    return list(config_flags.get_override_values(flags.FLAGS[CONFIG]))


def parse(argv: Sequence[str], takes_arguments: bool) -> list[str]:
    """What is left of the command line without its flags. A mistake in it ends the process with one line."""
    try:
        rest = flags.FLAGS(list(argv))
        if CONFIG in flags.FLAGS:
            config: Any = flags.FLAGS[CONFIG].value
            config.keys()  # a missing file raises only when it is first looked at
    except Exception as error:  # config files are Python: they, and the machinery below, raise anything
        complain(explain(error, argv))
        leave(EXIT_MISTAKE)
        raise
    if rest[1:] and not takes_arguments:
        complain(f"unexpected argument {rest[1]!r}; everything is set by flags, --help lists them")
        leave(EXIT_MISTAKE)
    return rest


def explain(error: Exception, argv: Sequence[str]) -> str:
    """One line for whatever absl or ml_collections raised about the command line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith(f"{CONFIG}.") and CONFIG in flags.FLAGS:
            return f"--{error.flagname} needs a config in front of it: --config FILE.py --{error.flagname}=VALUE"
        return f"unknown flag --{error.flagname}; {nearest(error.flagname, own_flags())}"
    path = config_argument(argv)
    if path is not None and not isinstance(error, flags.Error):
        return explain_config(error, path, argv)
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and any("Traceback" in line for line in lines):  # a config's get_config() failed
        return f"--{CONFIG} {path} cannot be loaded: {lines[-1].removeprefix('lra_tasks.errors.UserError: ')}"
    if "must have a value other than None" in str(error):
        name = str(error).split("--")[-1].split()[0]
        return f"--{name} is missing: {flags.FLAGS[name].help}"
    if "not supported for overriding" in str(error):
        field = str(error).split(" is not supported")[0].rsplit(" ", 1)[-1]
        return f"--{field} cannot be set on the command line, since its value is None or a list; change the config file"
    return " ".join(lines) or type(error).__name__


def explain_config(error: Exception, path: str, argv: Sequence[str]) -> str:
    """One line for a config file that cannot be loaded, or an override of a key that it does not have."""
    file = Path(path.split(":", 1)[0])
    if not file.is_file():
        siblings = [str(other) for other in file.parent.glob("*.py") if other.name != "__init__.py"]
        return f"--{CONFIG} {file}: no such file" + (f"; {nearest(str(file), siblings)}" if siblings else "")
    try:
        config = flags.FLAGS[CONFIG].parser.parse(path)
        for argument in before_dashes(argv[1:]):
            if argument.lstrip("-").startswith(f"{CONFIG}."):
                require_key(config, argument.lstrip("-").split("=", 1)[0].split(".")[1:])
    except UserError as mistake:
        return str(mistake)
    except Exception as failure:  # the file itself is at fault; say so with its own words
        error = failure
    return f"--{CONFIG} {path} cannot be loaded: {type(error).__name__}: {error}"


def require_key(config: Any, keys: Sequence[str]) -> None:
    """Raises UserError for the first of the nested `keys` that the config does not have."""
    for depth, key in enumerate(keys):
        name = ".".join(keys[: depth + 1])
        if not hasattr(config, "keys"):
            raise UserError(f"unknown config key {name!r}: {'.'.join(keys[:depth])} is a value, not a section")
        if key not in config:
            raise UserError(f"unknown config key {name!r}; {nearest(key, config.keys())}")
        config = config[key]


def config_argument(argv: Sequence[str]) -> str | None:
    """The value of --config on the command line."""
    arguments = before_dashes(argv[1:])
    for place, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == CONFIG:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None


def own_flags() -> list[str]:
    """Names of the flags that this project defines; absl's own dozens are left out."""
    modules = flags.FLAGS.flags_by_module_dict()
    return sorted(flag.name for module, found in modules.items() if not module.startswith("absl") for flag in found)


def show_help(usage: str) -> None:
    """The usage text and one line a flag."""
    print(usage.strip(), end="\n\nflags:\n")
    for name in own_flags():
        flag = flags.FLAGS[name]
        default = "" if flag.default is None or flag.boolean else f" (default: {flag.default})"
        values = getattr(flag.parser, "enum_values", None)
        choices = f" [{', '.join(values)}]" if values else ""
        print(f"  --{name:<12} {flag.help.strip()}{choices}{default}")
