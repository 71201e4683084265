"""Packages of npm, as independent readers of what we write."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGES = Path(__file__).parents[2] / "build" / "npm"


def unpacked(package: str, integrity: str) -> Path:
    """The directory of an npm package; downloaded once, and only ever what `integrity` says."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    archive = PACKAGES / f"{package.lstrip('@').replace('@', '-').replace('/', '-')}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", package], cwd=PACKAGES, check=True, capture_output=True, timeout=300)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert f"sha512-{digest}" == integrity, f"{archive} is not what it should be: delete it"
    directory = archive.with_suffix("")
    if not directory.exists():
        with tempfile.TemporaryDirectory(dir=PACKAGES) as parts, tarfile.open(archive) as tar:
            tar.extractall(parts)
            Path(parts, "package").rename(directory)
    return directory
