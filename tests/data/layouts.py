"""Small files in the official layouts, archives of these files, and a server on localhost."""

import hashlib
import io
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from stepwise.data import binary

BATCHES = binary.CIFAR10.members[:5]
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar_files(each=3):
    """Build a CIFAR-10 of `each` records per file.

    Record i of file f has the label (f + i) % 10 and random pixels.
    """
    rng = np.random.default_rng(0)
    files = {}
    for f, name in enumerate((*BATCHES, "test_batch.bin")):
        records = rng.integers(0, 256, (each, 3073), np.uint8)
        records[:, 0] = (f + np.arange(each)) % 10
        files[name] = records.tobytes()
    return files | {"batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}


def stl_files(n=4):
    rng = np.random.default_rng(0)
    files = {f"{split}_X.bin": rng.bytes(n * 27648) for split in ("train", "test", "unlabeled")}
    labels = {f"{split}_y.bin": bytes(1 + i % 10 for i in range(n)) for split in ("train", "test")}
    return files | labels | {"class_names.txt": "\n".join(NAMES).encode()}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(folder, files, *extra):
    """Build a .tar.gz of the files in a folder, plus extra members (TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member, content in extra:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def claim(monkeypatch, content, name="CIFAR10", url=None):
    """Make the loader accept this content as the official archive."""
    archive = getattr(binary, name)
    md5 = hashlib.md5(content).hexdigest()
    changed = replace(archive, md5=md5, url=url or archive.url)
    monkeypatch.setattr(binary, name, changed)
    return changed


class Server(ThreadingHTTPServer):
    """A server of one body, which disconnects or pauses after `stop` bytes.

    If `wait` is set, it pauses until `let_go` is set, and then sends the rest.
    """

    def __init__(self, body):
        self.body, self.stop, self.wait, self.requests = body, None, False, 0
        self.half_sent, self.let_go = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *args):
        """Ignore a client that was killed."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/cifar-10-binary.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body[: server.stop])
        self.wfile.flush()
        if server.wait:
            server.half_sent.set()
            server.let_go.wait(30)
            self.wfile.write(server.body[server.stop :])

    def log_message(self, *args):
        pass


@contextmanager
def serving(body):
    with Server(body) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.let_go.set()
            server.shutdown()
            thread.join()
