"""The wheel, built twice, which must give the same bytes, and its SBOM (CycloneDX): `python -m tools.release UV FOLDER`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCH = "1767225600"
"""2026-01-01: what `SOURCE_DATE_EPOCH` is where nobody sets it."""


def built(uv: str, folder: Path) -> Path:
    """The wheel of a copy of this tree, in a folder of its own, so that neither paths nor times can be in it."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        here = Path(__file__).parents[1]
        ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "tools", "dist", "mutants")
        shutil.copytree(here, tree, ignore=ignored)
        shutil.copy(here / ".gitignore", tree)
        environment = {"SOURCE_DATE_EPOCH": EPOCH, **os.environ}
        subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", str(folder)], cwd=tree, env=environment, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def main(uv: str, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as again:
        wheel = built(uv, folder)
        digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (wheel, built(uv, Path(again)))]
    if digests[0] != digests[1]:
        print(f"the wheel differs each time it is built: {digests[0]}, {digests[1]}", file=sys.stderr)
        return 1
    sbom = folder / "sbom.cdx.json"
    export = [uv, "export", "--frozen", "--quiet", "--no-dev", "--format", "cyclonedx1.5", "--output-file", str(sbom)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    print(f"{wheel}  sha256 {digests[0]}, the same twice")
    print(f"{sbom}  {sbom.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_file():
        sys.exit(f"`python -m tools.release UV FOLDER`, or `make release`, which has a uv of its own; given: {sys.argv[1:]}")
    sys.exit(main(str(Path(sys.argv[1]).absolute()), Path(sys.argv[2]).absolute()))
