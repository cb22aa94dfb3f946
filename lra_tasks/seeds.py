"""Seeds of one experiment that are trained at once: their work directories, and who belongs to whom. No JAX.

Below one folder each seed has a work directory of its own, `seedN`, with the files of a run by itself, and
`seeds.json`: the seeds that began together, and why this one failed, if it did. Seeds may be added later: those that
began go on to the end first, the new ones are another group.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lra_tasks.errors import UserError
from lra_tasks.typed_json import JsonError, build, write_text
from lra_tasks.workdirs import CONFIG, METRICS, RECORD, SEEDS, ResolvedConfig, RunFolder, open_workdir

MOST_SEEDS = 32
"""The loader remembers two epochs' orders of as many."""
EXIT_FAILED = 1
"""Some seeds failed; what the others came to is there."""


@dataclass(frozen=True)
class Membership:
    """What `seeds.json` says of a seed."""

    seeds: tuple[int, ...]
    """That began together, this one among them."""
    failed: str | None
    """Why it was given up."""


def parse_seeds(words: Sequence[str]) -> tuple[int, ...]:
    """The seeds of --seeds. UserError for what is none, or is there twice."""
    given = ",".join(words)
    if not words or not all(word.isdecimal() and int(word) < 2**32 for word in words):
        raise UserError(f"--seeds {given} must be whole numbers below 2**32, as 1,11,65537")
    seeds = tuple(int(word) for word in words)
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"--seeds {given} names seed {twice[0]} twice; name each once")
    if len(seeds) > MOST_SEEDS:
        raise UserError(f"--seeds names {len(seeds)} seeds; train at most {MOST_SEEDS} at once")
    return seeds


def name_seeds(seeds: Sequence[int]) -> str:
    """`1,11,65537`."""
    return ",".join(map(str, seeds))


@dataclass
class SeedFolders:
    """The work directories of seeds below one folder."""

    workdir: Path
    experiments: Mapping[int, ResolvedConfig]
    """By seed; they differ in it alone."""
    made: list[Path] = field(default_factory=list)
    """Files that `open` made."""

    def folder(self, seed: int) -> Path:
        """The work directory of a seed."""
        return self.workdir / f"seed{seed}"

    def is_finished(self, seed: int) -> bool:
        """Whether it has its record, which is written last."""
        return (self.folder(seed) / RECORD).exists()

    def read_membership(self, seed: int) -> Membership | None:
        """With whom a seed began; None where it never did, or ran by itself."""
        path = self.folder(seed) / SEEDS
        try:
            return build(Membership, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, JsonError) as error:
            raise UserError(f"{path} cannot be read ({error}); take another --workdir") from None

    def failure(self, seed: int) -> str | None:
        """Why a seed was given up."""
        membership = self.read_membership(seed)
        return None if membership is None else membership.failed

    def is_left(self, seed: int) -> bool:
        """Whether a seed is neither finished nor given up."""
        return not self.is_finished(seed) and self.failure(seed) is None

    @property
    def is_done(self) -> bool:
        """Whether no seed is left."""
        return not any(map(self.is_left, self.experiments))

    def list_groups(self) -> list[tuple[int, ...]]:
        """The seeds that are left, by who is trained with whom: those that took steps, then the others, then new ones.

        UserError where one of a group is left and was not named: it could not catch up.
        """
        left = [seed for seed in self.experiments if self.is_left(seed)]
        groups = []
        for seed in left:
            members = () if (found := self.read_membership(seed)) is None else found.seeds
            if missing := [other for other in members if other not in self.experiments and self.is_left(other)]:
                raise UserError(
                    f"--seeds {name_seeds(list(self.experiments))} leaves out {name_seeds(missing)}, with which seed "
                    f"{seed} began in {self.workdir}; give --seeds {name_seeds(members)}"
                )
            if members and not any(seed in group for group in groups):
                groups.append(tuple(other for other in members if other in left))
        groups.sort(key=lambda group: not any((self.folder(seed) / METRICS).exists() for seed in group))
        new = tuple(seed for seed in left if not any(seed in group for group in groups))
        return [*groups, new] if new else groups

    def list_sharers(self, seed: int) -> tuple[int, ...]:
        """The seeds that began with this one and did not fail, itself among them; () where it is alone.

        They share the time, so that the shares of the records add up to all of it.
        """
        membership = self.read_membership(seed)
        members = () if membership is None else membership.seeds
        sharers = tuple(other for other in members if self.failure(other) is None)
        return sharers if len(sharers) > 1 else ()

    def open(self) -> None:
        """Makes the folders. UserError for those of other configs or of runs by themselves that are not finished."""
        if (self.workdir / CONFIG).exists():
            raise UserError(f"{self.workdir} holds a run by itself; take another --workdir, or leave out --seeds")
        for seed in self.experiments:
            folder = self.folder(seed)
            if (folder / CONFIG).exists() and self.is_left(seed) and self.read_membership(seed) is None:
                raise UserError(
                    f"{folder} was begun by itself; finish it so, with --workdir {folder} --config.train.seed={seed}, "
                    "or take another --workdir"
                )
        for group in self.list_groups():
            for seed in group:
                if self.read_membership(seed) is None:
                    self._write(seed, Membership(group, None))
                    self.made.append(self.folder(seed) / SEEDS)
        for seed, experiment in self.experiments.items():
            self.made += open_workdir(self.folder(seed), experiment)

    def note_failure(self, seed: int, reason: str) -> None:
        """Gives a seed up; the others go on."""
        membership = self.read_membership(seed)
        self._write(seed, Membership(() if membership is None else membership.seeds, reason))

    def _write(self, seed: int, membership: Membership) -> None:
        content = {"seeds": membership.seeds, "failed": membership.failed}
        try:
            write_text(self.folder(seed) / SEEDS, json.dumps(content) + "\n")
        except OSError as error:
            raise UserError(
                f"--workdir {self.workdir} cannot be used ({error.strerror or error}); take a folder you may write to"
            ) from None

    def withdraw(self) -> None:
        """Removes what `open` made."""
        for path in self.made:
            path.unlink()
            for folder in (path.parent, self.workdir):
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()

    def conclude(self) -> int:
        """Says which seeds have their records and which failed."""
        for seed, experiment in self.experiments.items():
            if self.is_finished(seed):
                RunFolder(self.folder(seed), experiment).conclude()
        return self.tell_failures()

    def tell_failures(self) -> int:
        """Names the seeds that failed; returns the exit code."""
        failures = {seed: reason for seed in self.experiments if (reason := self.failure(seed)) is not None}
        for seed, reason in failures.items():
            print(f"failed: seed {seed}: {reason}", file=sys.stderr, flush=True)
        return EXIT_FAILED if failures else 0
