"""The run folder: what is in it, what is refused, and that a full disk or a killed process breaks nothing."""

import errno
import hashlib
import io
import json
import os
from pathlib import Path

import doomed
import pytest
import torch

from apical.errors import ApicalError, ConfigError, DataError, RunError
from apical.study import Config, RunFolder, resume, train
from apical.study.runs import files
from apical.study.runs.checkpoints import Checkpoints


@pytest.fixture
def given(tmp_path):
    return doomed.config(tmp_path, "epochs=2")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_run_leaves(given, tmp_path):
    result = train(given, tmp_path / "deep" / "run", task=doomed.blobs())
    folder = tmp_path / "deep" / "run"
    assert names(folder) == [
        ".lock",
        "checkpoints",
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "model.pt",
        "result.json",
        "run.json",
        "timing.jsonl",
    ]
    assert len(names(folder / "checkpoints")) == 2
    environment = json.loads((folder / "environment.json").read_text())
    assert {"apical", "torch", "python", "numpy", "platform", "cpu", "threads", "deterministic"} <= environment.keys()
    assert environment["threads"] == 1
    assert environment["torch"] == torch.__version__
    stored = json.loads((folder / "result.json").read_text())
    assert stored["test_accuracy"] == result.test_accuracy
    assert stored["status"] == "finished"


def test_every_checkpoint_opens_without_running_anything(given, tmp_path):
    train(given, tmp_path / "run", task=doomed.blobs())
    paths = RunFolder(tmp_path / "run").checkpoints.paths()
    assert [torch.load(path, weights_only=True)["step"] for path in paths] == [17, 18]


def test_the_configuration_in_the_folder_repeats_the_run(given, tmp_path):
    train(given, tmp_path / "run", task=doomed.blobs())
    train(Config.load(tmp_path / "run" / "config.toml"), tmp_path / "again", task=doomed.blobs())
    first, again = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "again")
    assert first.metrics.read_bytes() == again.metrics.read_bytes()
    assert first.model.read_bytes() == again.model.read_bytes()


class TestRefusals:
    """A folder that holds something is not written over unasked."""

    def test_a_finished_run(self, given, tmp_path):
        train(given, tmp_path / "run", task=doomed.blobs())
        before = (tmp_path / "run" / "result.json").read_bytes()
        with pytest.raises(RunError, match=r"holds a run already \(finished\): choose another folder, or overwrite"):
            train(given, tmp_path / "run", task=doomed.blobs())
        assert (tmp_path / "run" / "result.json").read_bytes() == before

    def test_an_unfinished_run(self, given, tmp_path):
        train(given, tmp_path / "run", task=doomed.blobs())
        (tmp_path / "run" / "result.json").unlink()
        with pytest.raises(RunError, match=r"\(unfinished\): continue it \(apical resume"):
            train(given, tmp_path / "run", task=doomed.blobs())

    def test_overwriting_when_asked(self, given, tmp_path):
        train(given.with_values({"epochs": 3}), tmp_path / "run", task=doomed.blobs())
        (tmp_path / "run" / "tensorboard").mkdir()
        (tmp_path / "run" / "page.html").write_text("made of it")
        train(given, tmp_path / "run", task=doomed.blobs(), overwrite=True)
        assert len(RunFolder(tmp_path / "run").epochs()) == 2
        assert not (tmp_path / "run" / "tensorboard").exists()
        assert (tmp_path / "run" / "page.html").exists()

    def test_other_peoples_files(self, given, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("")
        for overwrite in (False, True):
            with pytest.raises(RunError, match=r"is not empty \(it holds 'thesis.tex'\)"):
                train(given, tmp_path / "run", task=doomed.blobs(), overwrite=overwrite)
        assert "thesis.tex" in names(tmp_path / "run")

    def test_a_file(self, given, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(RunError, match="is a file"):
            train(given, tmp_path / "run", task=doomed.blobs())

    def test_what_a_killed_beginning_left_is_no_obstacle(self, given, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "environment.json").write_text("{")
        (tmp_path / "run" / ".run.json.77.tmp").write_text("{")
        train(given, tmp_path / "run", task=doomed.blobs())
        assert ".run.json.77.tmp" not in names(tmp_path / "run")

    @pytest.mark.parametrize(
        ("settings", "error"),
        [(["model=lenet"], ConfigError), (["task=npz:none.npz"], DataError), (["device=cuda:9"], ConfigError)],
    )
    def test_what_cannot_be_trained_leaves_no_folder(self, settings, error, tmp_path):
        own = None if "task" in settings[0] else doomed.blobs()
        with pytest.raises(error):
            train(Config().with_settings(settings), tmp_path / "run", task=own)
        assert not (tmp_path / "run").exists()


class TestTheDisk:
    """A full or read-only disk ends in an error that says so, and the run goes on from where it was."""

    @pytest.fixture
    def full(self, monkeypatch):
        def after(calls, number=errno.ENOSPC):
            original = os.fsync
            left = [calls]

            def fsync(descriptor):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(number, os.strerror(number))
                original(descriptor)

            patch = pytest.MonkeyPatch()
            patch.setattr(os, "fsync", fsync)
            patches.append(patch)
            return patch

        patches = []
        yield after
        for patch in patches:
            patch.undo()

    @pytest.mark.parametrize("calls", [0, 3, 7, 10, 12])
    def test_a_full_disk(self, calls, given, full, tmp_path):
        train(given, tmp_path / "whole", task=doomed.blobs())
        patch = full(calls)
        with pytest.raises(RunError, match=r"cannot write .*: No space left on device; free some space"):
            train(given, tmp_path / "run", task=doomed.blobs())
        patch.undo()
        assert not list((tmp_path / "run").rglob("*.tmp"))
        doomed.begin_or_go_on(given, tmp_path / "run")
        whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
        assert run.metrics.read_bytes() == whole.metrics.read_bytes()
        assert run.model.read_bytes() == whole.model.read_bytes()

    def test_a_read_only_disk(self, given, full, tmp_path):
        full(0, errno.EROFS)
        with pytest.raises(RunError, match="Read-only file system; choose a folder on a disk that can be written"):
            train(given, tmp_path / "run", task=doomed.blobs())

    def test_a_folder_that_cannot_be_made(self, given, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"cannot write .*Not a directory"):
            train(given, tmp_path / "file" / "run", task=doomed.blobs())


class TestDurable:
    """The primitives."""

    def test_a_replacement_that_fails_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a"
        files.atomic_write(path, b"old")

        def fail(*_):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(RunError, match="Input/output error"):
            files.atomic_write(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["a"]

    def test_a_replacement_is_on_the_disk_before_it_takes_the_name(self, tmp_path, monkeypatch):
        calls = []
        for name in ("fsync", "replace"):
            original = getattr(os, name)
            monkeypatch.setattr(
                os, name, lambda *args, _original=original, _name=name: calls.append(_name) or _original(*args)
            )
        files.atomic_write(tmp_path / "a", b"new")
        assert calls == ["fsync", "replace", "fsync"]

    def test_the_file_has_the_usual_permissions(self, tmp_path):
        files.atomic_write(tmp_path / "a", b"")
        (tmp_path / "b").write_bytes(b"")
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode

    def test_lines(self, tmp_path):
        path = tmp_path / "lines"
        assert files.read_lines(path) == []
        for number in (1, 2):
            files.append_line(path, {"n": number}, sync=True)
        size = path.stat().st_size
        with path.open("a") as file:
            file.write('{"n"')
        assert files.read_lines(path) == [{"n": 1}, {"n": 2}]
        files.drop_partial_line(path)
        assert path.stat().st_size == size
        files.truncate(path, size // 2)
        assert files.read_lines(path) == [{"n": 1}]

    def test_not_a_number_has_no_place_in_a_file(self, tmp_path):
        with pytest.raises(ValueError, match="JSON"):
            files.append_line(tmp_path / "lines", {"n": float("nan")}, sync=False)

    def test_a_lock_is_free_again_afterwards(self, tmp_path):
        for _ in range(2):
            with (
                files.locked(tmp_path, "testing"),
                pytest.raises(RunError, match=r"in use by .*\(testing\)"),
                files.locked(tmp_path, "too"),
            ):
                pass


class TestCheckpoints:
    """Written whole, read whole or not at all."""

    def test_two_are_kept_and_numbers_rise(self, tmp_path):
        checkpoints = Checkpoints(tmp_path / "c")
        assert checkpoints.latest() is None
        for step in range(5):
            checkpoints.save({"step": step})
        assert [path.name.split(".")[0] for path in checkpoints.paths()] == ["000004", "000005"]
        assert checkpoints.latest().content["step"] == 4

    def test_after_a_damaged_one_the_last_whole_one_is_kept(self, tmp_path):
        checkpoints = Checkpoints(tmp_path / "c")
        for step in range(2):
            checkpoints.save({"step": step, "weights": torch.arange(100.0)})
        whole, broken = checkpoints.paths()
        broken.write_bytes(b"")
        again = Checkpoints(tmp_path / "c")
        found = again.latest()
        assert found.content["step"] == 0
        assert found.damaged == (broken,)
        new = again.save({"step": 2})
        assert again.paths() == [whole, new]

    def test_any_flipped_bit_is_noticed(self, tmp_path):
        checkpoints = Checkpoints(tmp_path / "c")
        checkpoints.save({"step": 0})
        path = checkpoints.save({"step": 1, "weights": torch.ones(3)})
        content = path.read_bytes()
        for place in range(0, len(content), 97):
            path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
            assert checkpoints.latest().content["step"] == 0

    def test_a_reader_beside_a_run_that_goes_on(self, tmp_path, monkeypatch):
        checkpoints = Checkpoints(tmp_path / "c")
        checkpoints.save({"step": 0})
        before = checkpoints.paths()
        for step in (1, 2, 3):
            checkpoints.save({"step": step})
        seen = [before, checkpoints.paths()]
        reader = Checkpoints(tmp_path / "c")
        monkeypatch.setattr(reader, "paths", lambda: seen.pop(0))
        assert reader.latest().content["step"] == 3

    def test_another_format_is_refused(self, tmp_path, monkeypatch):
        checkpoints = Checkpoints(tmp_path / "c")
        monkeypatch.setattr("apical.study.runs.checkpoints.FORMAT", 2)
        checkpoints.save({"step": 0})
        monkeypatch.undo()
        with pytest.raises(ApicalError, match="has format 2, and this apical reads format 1"):
            checkpoints.latest()


def test_a_lock_is_not_followed_through_a_link(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "thesis.tex")
    with (
        pytest.raises(RunError, match=r"cannot write .*\.lock: .*; remove the link"),
        files.locked(tmp_path / "run", "x"),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_one_of_several_ranks_does_not_write(given, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"WORLD_SIZE is 2.*Start one process \(without torchrun\)"):
        train(given, tmp_path / "run", task=doomed.blobs())
    assert names(tmp_path / "run") == []


def test_a_folder_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/run").path == tmp_path / "run"


@pytest.mark.parametrize("name", ["result.json", "run.json", "environment.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 9999, b"9" * 5000, b'{"epoch": []}', None])
def test_whatever_a_file_holds_it_is_a_message(name, content, given, tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.begin(given, {"cpu": "abacus"}, {"name": "blobs"}, {"data": "1"}, [])
    files.append_line(run.metrics, {"epoch": 1}, sync=False)
    run.finish({"status": "finished", "epochs": 1, "test_accuracy": 1.0, "notes": []})
    assert run.result()["test_accuracy"] == 1.0
    path = tmp_path / name
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    reads = {"result.json": run.result, "run.json": run.task, "environment.json": run.environment}
    with pytest.raises(RunError, match=name):
        reads.get(name, run.epochs)()


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match=r"cannot read .*metrics\.jsonl: Permission denied"):
        files.read_lines(tmp_path / "metrics.jsonl")


def test_a_checkpoint_by_another_program_is_a_message(tmp_path):
    for number, content in enumerate((b"not one", pickled(Path("x")), pickled(3), pickled({"step": 1}))):
        checkpoints = Checkpoints(tmp_path / str(number))
        checkpoints.folder.mkdir()
        name = f"000001.{hashlib.sha256(content).hexdigest()[:16]}.pt"
        (checkpoints.folder / name).write_bytes(content)
        with pytest.raises(ApicalError, match=rf"{name} is not a checkpoint"):
            checkpoints.latest()


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_damaged_file_of_the_folder_is_named(given, tmp_path):
    train(given, tmp_path / "run", task=doomed.blobs())
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is missing or damaged"):
        resume(tmp_path / "run", task=doomed.blobs())
