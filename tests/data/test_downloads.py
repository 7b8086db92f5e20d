import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_samples import Mirror, files_below

from apical.data import fetch
from apical.data.downloads import RemoteFile, download
from apical.data.standard import StandardSet
from apical.errors import DataError
from waiting import PATIENCE, program

CONTENT = bytes(range(256)) * 1000
REMOTE = RemoteFile("values", len(CONTENT), "sha256:" + hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_whole_file_gets_its_name(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["values"] = CONTENT
    folder = tmp_path / "a" / "new" / "folder"
    path = download(REMOTE, folder, mirrors=[mirror.url], progress=False)
    assert path == folder / "values"
    assert path.read_bytes() == CONTENT
    assert files_below(tmp_path) == ["a/new/folder/values"]


@pytest.mark.parametrize("failure", ["wrong", "cut", "cut, length unknown", "404", "nobody", "stalled"])
def test_a_failure_says_why_and_leaves_nothing(mirror: Mirror, nobody: str, tmp_path: Path, failure: str) -> None:
    url, timeout = mirror.url, PATIENCE
    if failure != "404":
        mirror.files["values"] = CONTENT
    match failure:
        case "wrong":
            mirror.files["values"] = CONTENT[::-1]
            reason = "wrong checksum: sha256 [0-9a-f]{64}, wanted [0-9a-f]{64}"
        case "cut":
            mirror.cut.add("values")
            reason = r"the connection was cut \(.*128000 bytes read, 128000 more expected"
        case "cut, length unknown":
            mirror.cut.add("values")
            mirror.unsized.add("values")
            reason = "wrong checksum: .*of 128000 bytes received"
        case "404":
            reason = "the server answers 404"
        case "nobody":
            url, reason = nobody, r"no connection \(Connection refused\)"
        case _:
            mirror.stalled.add("values")
            timeout, reason = 0.2, r"no connection \(timed out\)|no answer in time"
    with pytest.raises(DataError, match=reason) as caught:
        download(REMOTE, tmp_path, mirrors=[url], progress=False, timeout=timeout, remedy="Bring it by hand.")
    assert "values could not be downloaded" in str(caught.value)
    assert f"{url}/values" in str(caught.value)
    assert "Bring it by hand." in str(caught.value)
    assert files_below(tmp_path) == []


def test_the_next_mirror_is_tried(mirror: Mirror, nobody: str, tmp_path: Path) -> None:
    mirror.files["good/values"] = CONTENT
    mirrors = [nobody, mirror.url, "no-address", f"{mirror.url}/good/"]
    assert download(REMOTE, tmp_path, mirrors=mirrors, progress=False).read_bytes() == CONTENT
    with pytest.raises(DataError) as caught:
        download(RemoteFile("other", 1, "md5:0"), tmp_path, mirrors=mirrors, progress=False)
    assert str(caught.value).count("\n") == 5, "one line for each mirror, and the remedy"
    assert "Invalid URL 'no-address/other'" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_no_fault_of_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["values"] = CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/folder: cannot be written"):
        download(REMOTE, tmp_path / "file" / "folder", mirrors=[mirror.url], progress=False)


def test_the_bar_goes_to_standard_error_and_only_if_asked(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.files["values"] = CONTENT
    download(REMOTE, tmp_path / "quiet", mirrors=[mirror.url], progress=False)
    assert capsys.readouterr() == ("", "")
    download(REMOTE, tmp_path / "shown", mirrors=[mirror.url], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "values" in err
    assert "256" in err, "the bytes are counted"


INTERRUPTED = """
import sys
from pathlib import Path
from apical.data.downloads import RemoteFile, download
folder, mirror, patience = sys.argv[1:]
try:
    download(RemoteFile("values", 1, "md5:0"), Path(folder), mirrors=[mirror], progress=False, timeout=float(patience))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole group of processes")
def test_ctrl_c_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["values"] = CONTENT
    mirror.stalled.add("values")
    with program("-c", INTERRUPTED, tmp_path, mirror.url, PATIENCE) as process:
        process.until(lambda: mirror.halfway.is_set() and files_below(tmp_path), "a download under way")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert files_below(tmp_path) == []


# ---------------------------------------------------------------- the standard sets


def test_a_set_is_fetched_once(tiny_mnist: StandardSet, mirror: Mirror, tmp_path: Path) -> None:
    assert tiny_mnist.find(tmp_path) is None
    assert tiny_mnist.fetch_bytes(tmp_path) == 400
    folder = tiny_mnist.fetch(tmp_path, mirrors=None, progress=False)
    assert folder == tiny_mnist.find(tmp_path) == tmp_path / "MNIST" / "raw"
    assert tiny_mnist.fetch_bytes(tmp_path) == 0
    assert len(mirror.requests) == 4
    assert tiny_mnist.fetch(tmp_path, mirrors=None, progress=False) == folder
    assert len(mirror.requests) == 4
    arrays = tiny_mnist.read(folder)
    assert arrays.x_train.shape == (20, 1, 5, 4)
    assert arrays.y_test.tolist() == list(range(10))


def test_only_what_is_missing_is_fetched(tiny_mnist: StandardSet, mirror: Mirror, tmp_path: Path) -> None:
    folder = tiny_mnist.fetch(tmp_path, mirrors=None, progress=False)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert tiny_mnist.find(tmp_path) is None
    assert tiny_mnist.fetch_bytes(tmp_path) == 100
    mirror.requests.clear()
    tiny_mnist.fetch(tmp_path, mirrors=None, progress=False)
    assert mirror.requests == ["t10k-labels-idx1-ubyte.gz"]


def test_a_failed_set_can_be_continued(tiny_mnist: StandardSet, mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut.add("t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz could not be downloaded") as caught:
        tiny_mnist.fetch(tmp_path, mirrors=None, progress=False)
    assert f"into {tmp_path / 'MNIST' / 'raw'} by hand" in str(caught.value)
    assert "APICAL_DATA" in str(caught.value)
    assert files_below(tmp_path) == [
        "MNIST/raw/train-images-idx3-ubyte.gz",
        "MNIST/raw/train-labels-idx1-ubyte.gz",
    ]
    mirror.cut.clear()
    mirror.requests.clear()
    tiny_mnist.fetch(tmp_path, mirrors=None, progress=False)
    assert mirror.requests == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_the_archive_is_unpacked_and_gone(tiny_cifar10: StandardSet, tmp_path: Path) -> None:
    folder = tiny_cifar10.fetch(tmp_path, mirrors=None, progress=False)
    assert files_below(tmp_path) == sorted(f"cifar-10-batches-py/{name}" for name in tiny_cifar10.members)
    arrays = tiny_cifar10.read(folder)
    assert arrays.x_train.shape == (50, 3, 32, 32)
    assert arrays.x_test.shape == (10, 3, 32, 32)


@pytest.mark.parametrize("failure", ["wrong", "cut", "404"])
def test_a_failed_archive_leaves_nothing(
    tiny_cifar10: StandardSet, mirror: Mirror, tmp_path: Path, failure: str
) -> None:
    name = "cifar-10-python.tar.gz"
    match failure:
        case "wrong":
            mirror.files[name] = mirror.files[name][:-1] + b"?"
        case "cut":
            mirror.cut.add(name)
        case _:
            mirror.files.clear()
    with pytest.raises(DataError, match=f"put {name} into {tmp_path} by hand"):
        tiny_cifar10.fetch(tmp_path, mirrors=None, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_brought_by_hand_needs_no_network(tiny_cifar10: StandardSet, mirror: Mirror, tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(mirror.files[archive.name])
    assert tiny_cifar10.fetch_bytes(tmp_path) == 0
    tiny_cifar10.fetch(tmp_path, mirrors=None, progress=False)
    assert mirror.requests == []
    assert archive.exists(), "it is the user's"


def test_a_wrong_archive_brought_by_hand_is_named(tiny_cifar10: StandardSet, tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: wrong checksum: md5 .*Delete it"):
        tiny_cifar10.fetch(tmp_path, mirrors=None, progress=False)
    assert archive.read_bytes() == b"something else"


def test_an_archive_that_cannot_be_unpacked_is_an_error(tiny_cifar10: StandardSet, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").touch()
    with pytest.raises(DataError, match="cannot be used"):
        tiny_cifar10.fetch(tmp_path, mirrors=None, progress=False)
    assert files_below(tmp_path) == ["cifar-10-batches-py"]


def test_downloads_go_to_the_named_folder_or_else_to_the_cache(
    tiny_mnist: StandardSet, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tiny_mnist.fetch(None, mirrors=None, progress=False)
    assert homeless in cached.parents
    assert "apical" in cached.parts
    monkeypatch.setenv("APICAL_DATA", str(homeless / "named"))
    assert tiny_mnist.fetch(None, mirrors=None, progress=False) == cached, "it is there already"
    (cached / "t10k-labels-idx1-ubyte.gz").unlink()
    named = tiny_mnist.fetch(None, mirrors=None, progress=False)
    assert named == homeless / "named" / "MNIST" / "raw"


def test_a_named_folder_that_cannot_be_written_is_left_alone(
    tiny_mnist: StandardSet, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (homeless / "file").touch()
    monkeypatch.setenv("APICAL_DATA", str(homeless / "file" / "below"))
    folder = tiny_mnist.fetch(None, mirrors=None, progress=False)
    assert "apical" in folder.parts


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_official_checksums_refuse_other_files(mirror: Mirror, tmp_path: Path, name: str) -> None:
    mirror.files = dict.fromkeys(["train-images-idx3-ubyte.gz", "cifar-10-python.tar.gz"], CONTENT)
    with pytest.raises(DataError, match="wrong checksum"):
        fetch(name, root=tmp_path, mirrors=[mirror.url], progress=False)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_official_checksums_admit_the_real_files(
    mirror: Mirror, tmp_path: Path, real_root: Path, name: str, folder: str
) -> None:
    real = real_root / folder / "raw"
    if not real.is_dir():
        pytest.skip(f"{real} is not there")
    mirror.files = {path.name: path.read_bytes() for path in real.glob("*.gz")}
    fetched = fetch(name, root=tmp_path, mirrors=[mirror.url], progress=False)
    assert files_below(fetched) == sorted(mirror.files)
