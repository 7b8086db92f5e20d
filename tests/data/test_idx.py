import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from data_samples import IDX_CODES, idx_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apical.data import read_idx
from apical.errors import DataError

arrays = hnp.arrays(
    dtype=st.sampled_from(sorted(IDX_CODES)).map(np.dtype),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "values"


@given(array=arrays, zipped=st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read(path: Path, array: np.ndarray, zipped: bool) -> None:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if zipped else content)
    read = read_idx(path)
    assert read.shape == array.shape
    assert read.astype(array.dtype).tobytes() == array.tobytes()


@given(array=arrays, zipped=st.booleans(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_cut_anywhere_is_refused(path: Path, array: np.ndarray, zipped: bool, data: st.DataObject) -> None:
    content = gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="cut at")])
    with pytest.raises(DataError, match="values: "):
        read_idx(path)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_one_file_cut_at_every_byte_is_refused(path: Path, compress: type[bytes]) -> None:
    content = compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            read_idx(path)


good = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"\1" + good[1:], "starts with the bytes 01 00 08 02", id="zeros missing"),
        pytest.param(b"\0\0\x07" + good[3:], "starts with the bytes 00 00 07 02", id="unknown type"),
        pytest.param(b"\0\0\x08\0\x05", "starts with the bytes 00 00 08 00", id="no axes"),
        pytest.param(b"<html>404</html>", "which no idx file does", id="a page instead"),
        pytest.param(good + b"\0", "longer than its header says: 7 bytes of values, 6", id="too long"),
        pytest.param(b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\7", "its shape .* is none", id="65 axes"),
        pytest.param(
            b"\0\0\x08\3" + b"\xff" * 12, "truncated: 0 bytes of values, 79228162458924105385300197375", id="vast"
        ),
        pytest.param(gzip.compress(good)[:-8] + b"\0" * 8, "gzip data are damaged", id="gzip checksum"),
        pytest.param(b"\x1f\x8b" + b"\xff" * 30, "gzip data are damaged", id="gzip header"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "Delete the file" in str(caught.value)


def test_a_bomb_is_not_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many zeros in few bytes, behind the header and values of a small array."""
    unpacked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size=-1: unpacked.append(size) or read(file, size))
    path.write_bytes(gzip.compress(good + bytes(10**7)))
    with pytest.raises(DataError, match="longer than its header says"):
        read_idx(path)
    assert 0 < sum(unpacked) < 100


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "values"
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(path)


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "values.gz"
    path.write_bytes(good)
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)
