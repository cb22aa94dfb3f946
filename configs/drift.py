"""The drift ledger as switches: each known difference between Luna's paper, README and code by a name.

    configs/listops.py:luna16:cpu+tied_kv               the preset cpu with one switch; its protocol is "cpu+tied_kv"
    configs/listops.py:luna16:+tied_kv                  the recipe itself, protocol "authors+tied_kv"
    configs/listops.py:luna16:cpu+tied_kv+all_slots     two switches
    configs/listops.py:luna16:cpu+as_paper              every switch on the paper's side

`ledger.py` has the differences with their sources, `switches.py` what each switch sets; `launch/drift.sh` runs the
variants of a task one at a time, and `python -m lra_tasks.drift` tells what each is worth. A switch that would change
nothing is refused.
"""

import difflib
from collections.abc import Sequence

from ml_collections import ConfigDict

from configs.switches import BUNDLES, PRESETS, SWITCHES, TASKS, Changes


def apply(config: ConfigDict, task: str, preset: str, names: Sequence[str]) -> None:
    """Sets the switches, and a protocol that names them: "cpu" becomes "cpu+tied_kv". ValueError for what does not fit.

    `names` are of switches or bundles; their order makes no difference.
    """
    if not names:
        return
    order = [*SWITCHES, *BUNDLES]
    for name in names:
        _check(config, task, preset, name)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"the switch {repeated[0]!r} is there twice; name it once")
    settings = {name: _list_settings(task, preset, name) for name in names}
    together: Changes = {}
    for wanted in settings.values():
        for key, value in wanted.items():
            if together.setdefault(key, value) != value:
                clash = f"{key} to {together[key]!r} and to {value!r}"
                raise ValueError(f"{'+'.join(names)} sets {clash}; leave one of them out")
    for name, wanted in settings.items():
        others = set().union(*(settings[other] for other in names if other != name))
        if wanted.keys() <= others:
            raise ValueError(f"{'+'.join(names)}: the others set all that {name!r} sets; leave it out")
    config.update_from_flattened_dict(together)
    config.protocol = "+".join([config.protocol, *sorted(names, key=order.index)])


def find_changes(config: ConfigDict, task: str, preset: str, name: str) -> Changes:
    """What a switch or a bundle would change in a config; empty where it does not apply, or the config has it."""
    wanted = _list_settings(task, preset, name)
    has = {key: config[section][setting] for key in wanted for section, _, setting in [key.partition(".")]}
    return {key: value for key, value in wanted.items() if has[key] != value}


def _list_settings(task: str, preset: str, name: str) -> Changes:
    members = [SWITCHES[name]] if name in SWITCHES else []
    if name in BUNDLES:
        members = [switch for switch in SWITCHES.values() if task in switch.sides.get(BUNDLES[name], ())]
    settings: Changes = {}
    for switch in members:
        if preset in switch.presets:
            settings |= switch.changes.get(task, {})
    return settings


def list_variants(config: ConfigDict, task: str, preset: str) -> dict[str, Changes]:
    """Every switch that changes something, with what it changes, then the bundles of more than one such switch."""
    singles = {name: find_changes(config, task, preset, name) for name in SWITCHES}
    found = {name: changes for name, changes in singles.items() if changes and _fits(config, changes)}
    for name in BUNDLES:
        changes = find_changes(config, task, preset, name)
        if changes and _fits(config, changes) and changes not in found.values():
            found[name] = changes
    return found


def list_settings() -> dict[str, set[str]]:
    """By switch and bundle, all settings that it sets in some task."""
    return {
        name: {key for task in TASKS for preset in PRESETS for key in _list_settings(task, preset, name)}
        for name in [*SWITCHES, *BUNDLES]
    }


def _fits(config: ConfigDict, changes: Changes) -> bool:
    return config.model.attention == "luna" or not any(key.startswith(("luna.", "pack.")) for key in changes)


def _check(config: ConfigDict, task: str, preset: str, name: str) -> None:
    if task not in TASKS:
        raise ValueError(
            f"{name!r}: nobody published a recipe of Luna's for {task}; switches are for {', '.join(TASKS)}"
        )
    if preset not in PRESETS:
        raise ValueError(f"{name!r}: switches stand behind Luna's recipes (none, paper or cpu), not behind {preset!r}")
    if name not in SWITCHES and name not in BUNDLES:
        known = [*SWITCHES, *BUNDLES]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown switch {name!r}; {hint}choices: {', '.join(known)}")
    changes = find_changes(config, task, preset, name)
    if not changes:
        reason = "this recipe is so already"
        if name in SWITCHES and task not in SWITCHES[name].changes:
            reason = f"it is for {', '.join(SWITCHES[name].changes)}"
        elif name in SWITCHES and preset not in SWITCHES[name].presets:
            reason = f"it is not for the preset {preset}"
        raise ValueError(f"the switch {name!r} changes nothing here: {reason}; leave it out")
    if not _fits(config, changes):
        raise ValueError(f"the switch {name!r} is Luna's, and {config.row} has no packed sequence; take luna16")
