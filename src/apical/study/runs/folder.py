"""The folder of one training run: what is in it, who may write to it.

    config.toml        the configuration, complete: `apical train --config` repeats the run
    environment.json   versions, processor, threads
    run.json           the data (sizes, the statistics that standardised them), a fingerprint of what the run is made
                       of (`apical.study.runs.fingerprint`), and notes
    metrics.jsonl      one line an epoch; the same bytes, however often the run was interrupted
    timing.jsonl       one line an epoch: wall-clock seconds, which no resumed run can repeat
    checkpoints/       the state of training
    model.pt           at the end: `state_dict` of the plain model, the weights that were tested
    result.json        at the end: the test set, measured once
    tensorboard/       with log = "tensorboard"

A folder is a run once it holds config.toml, which is therefore written last and removed last.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apical.errors import RunError
from apical.study.configuration import Config
from apical.study.runs import files
from apical.study.runs.checkpoints import Checkpoints

FILES = ("result.json", "model.pt", "metrics.jsonl", "timing.jsonl", "run.json", "environment.json", "config.toml")
FOLDERS = ("checkpoints", "tensorboard")


class RunFolder:
    """One run's folder.

    Args:
        path: of the folder, which need not exist yet.

    Attributes:
        path: as given.
        metrics, timing, model, tensorboard: paths inside it.
        checkpoints: its checkpoints.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.metrics = self.path / "metrics.jsonl"
        self.timing = self.path / "timing.jsonl"
        self.model = self.path / "model.pt"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that exists.

        Raises:
            RunError: there is none.
        """
        run = cls(path)
        if not run.exists():
            reason = "holds no config.toml" if run.path.is_dir() else "does not exist"
            raise RunError(f"{path} is not the folder of a run: it {reason}")
        return run

    def exists(self) -> bool:
        """Whether a run is in the folder, finished or not."""
        return (self.path / "config.toml").is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if need be, and hold it alone.

        Raises:
            RunError: another process has it, or it cannot be made.
        """
        files.make_folder(self.path)
        with files.locked(self.path, "training"):
            for folder in (self.path, self.checkpoints.folder):
                files.remove_temporaries(folder)
            yield

    def refuse_what_is_there(self) -> None:
        """Refuse a folder that holds anything which a new run would mix with.

        Raises:
            RunError: it holds a run, or files that are no run's.
        """
        if self.exists():
            state = "finished" if self.result() else "unfinished"
            advice = "" if self.result() else f"continue it (apical resume {self.path}), "
            raise RunError(f"{self.path} holds a run already ({state}): {advice}choose another folder, or overwrite it")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        foreign = sorted(name for name in names - {*FILES, *FOLDERS, ".lock"} if not name.endswith(".tmp"))
        if foreign:
            raise RunError(f"{self.path} is not empty (it holds {foreign[0]!r}): choose a new folder")

    def clear(self) -> None:
        """Remove a run's files, and no others."""
        with files.file_errors(self.path):
            for name in FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)

    def begin(
        self,
        config: Config,
        environment: dict[str, Any],
        task: dict[str, Any],
        fingerprint: dict[str, str],
        notes: Sequence[str],
    ) -> None:
        """Write what is known before the first step."""
        files.write_sealed(self.path / "environment.json", environment)
        about = {"task": task, "fingerprint": fingerprint, "notes": list(notes)}
        files.write_sealed(self.path / "run.json", about)
        files.atomic_write(self.path / "config.toml", config.to_toml().encode())

    def config(self) -> Config:
        """The configuration of the run."""
        return Config.load(self.path / "config.toml")

    def environment(self) -> dict[str, Any]:
        """The environment in which the run was started."""
        return self._sealed("environment.json")

    def task(self) -> dict[str, Any]:
        """What the run was trained on, as `apical.study.runs.task_record.describe` has it."""
        task: dict[str, Any] = self._about()["task"]
        return task

    def fingerprint(self) -> dict[str, str]:
        """What the run is made of; empty for one of before fingerprints were kept."""
        fingerprint: dict[str, str] = self._about().get("fingerprint", {})
        return fingerprint

    def notes(self) -> tuple[str, ...]:
        """Facts that readers of the run's numbers need, a sentence each."""
        return tuple(self._about()["notes"])

    def add_note(self, note: str) -> None:
        """Keep one more sentence for `notes`."""
        content = self._about()
        if note not in content["notes"]:
            files.write_sealed(self.path / "run.json", {**content, "notes": [*content["notes"], note]})

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None until the run has finished."""
        if not (self.path / "result.json").exists():
            return None
        content = self._sealed("result.json", {"status": str, "epochs": int, "test_accuracy": float, "notes": list})
        content.pop("metrics", None)
        return content

    def epochs(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl.

        Raises:
            RunError: it is damaged, or was changed since the run ended.
        """
        if (self.path / "result.json").exists():
            digest = self._metrics_digest()
            if self._sealed("result.json").get("metrics", digest) != digest:
                raise RunError(f"{self.metrics} was changed since the run ended. Train it again (overwrite it).")
        return files.read_lines(self.metrics)

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, which makes the run a finished one."""
        files.write_sealed(self.path / "result.json", {**result, "metrics": self._metrics_digest()})

    def _metrics_digest(self) -> str:
        return hashlib.sha256(files.content(self.metrics)).hexdigest()

    def _about(self) -> dict[str, Any]:
        path = self.path / "run.json"
        content = files.read_sealed(path, lambda content: "fingerprint" in content)
        return _expected(path, content, {"task": dict, "notes": list})

    def _sealed(self, name: str, wanted: dict[str, type] | None = None) -> dict[str, Any]:
        """A document beside run.json, which has a seal if that one has a fingerprint."""
        path = self.path / name
        content = files.read_sealed(path, lambda content: bool(self.fingerprint()))
        return _expected(path, content, wanted or {})


def _expected(path: Path, content: dict[str, Any], wanted: dict[str, type]) -> dict[str, Any]:
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            raise RunError(f"{path} is damaged: it has no {key}. Train the run again (overwrite it).")
    return content
