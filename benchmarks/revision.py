"""An earlier version of this library, to be measured with the benchmarks of today."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "fastapi_proxy_router"
HERE = Path(__file__).parent
ROOT = HERE.parent


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """Lay the library of revision *name* out, and these benchmarks, in a directory for a while.

    Programs that are started there import both from there.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        command = ["git", "-C", str(ROOT), "archive", "--format=tar", name, PACKAGE]
        archive = subprocess.run(command, capture_output=True, check=False)
        if archive.returncode:
            raise SystemExit(f"no revision {name}: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(root, filter="data")
        shutil.copytree(HERE, root / HERE.name, ignore=shutil.ignore_patterns("__pycache__"))
        where = [sys.executable, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"]
        found = subprocess.run(where, cwd=root, capture_output=True, text=True, check=False)
        if not found.stdout.startswith(str(root)):
            raise SystemExit(f"{name} cannot be used: {found.stdout}{found.stderr}")
        yield root


def commit(name: str) -> str:
    """Return the short name of revision *name*."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
