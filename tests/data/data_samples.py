"""Small files in the standard layouts, and a mirror on this machine that can be told to fail."""

import io
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """The idx file of an array, written from the format's definition."""
    code = IDX_CODES[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


class Mirror:
    """An HTTP server on 127.0.0.1 that offers `files`.

    Those in `cut` break off in the middle, those in `stalled` stop answering there (until the test ends), those
    in `unsized` are sent without their length.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.stalled: set[str] = set()
        self.unsized: set[str] = set()
        self.requests: list[str] = []
        self.halfway = threading.Event()
        self.over = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                mirror.requests.append(name)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                content = mirror.files[name]
                self.send_response(200)
                if name not in mirror.unsized:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if name in mirror.cut or name in mirror.stalled:
                    content = content[: len(content) // 2]
                self.wfile.write(content)
                if name in mirror.stalled:
                    mirror.halfway.set()
                    mirror.over.wait()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def tiny_idx_members(generator: np.random.Generator) -> dict[str, bytes]:
    members = {}
    for part, count in (("train", 20), ("t10k", 10)):
        images = generator.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        members[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        members[f"{part}-labels-idx1-ubyte"] = idx_bytes(np.arange(count, dtype=np.uint8) % 10)
    return members


def cifar_batch(generator: np.random.Generator, count: int = 10) -> dict[bytes, object]:
    data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": data, b"labels": [i % 10 for i in range(count)], b"filenames": [b""] * count}


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
