"""Check a built wheel: it holds the package and nothing else, and it works where nothing but it is installed.

python tests/dist/check_wheel.py dist/sqlstore-0.1.0-py3-none-any.whl
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    """Check the wheel that the command line names.

    Raises:
        SystemExit: with what is wrong.
    """
    wheel = Path(sys.argv[1]).resolve(strict=True)
    check_files(wheel)
    check_in_bare_environment(wheel)
    print(f"{wheel.name}: complete, and works in a bare environment")


def check_files(wheel: Path) -> None:
    """Compare the files of *wheel* with those of the package's folder: adapters, migrations, all; no test or example.

    Raises:
        SystemExit: with the names that one of them lacks.
    """
    package = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.joinpath("sqlstore").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not (name.endswith("/") or ".dist-info/" in name)}
    if packed != package:
        sys.exit(f"{wheel.name} lacks {sorted(package - packed)} and should not have {sorted(packed - package)}")


def check_in_bare_environment(wheel: Path) -> None:
    """Install *wheel* alone, far from this repository, and use it.

    Raises:
        subprocess.CalledProcessError: it cannot be installed or used; the command has said why.
    """
    uv = find_uv_bin()
    with TemporaryDirectory(prefix="sqlstore-dist-") as elsewhere:
        python = Path(elsewhere, "bare", "bin", "python")

        def run(*command: str | Path) -> None:
            subprocess.run(command, cwd=elsewhere, check=True)

        run(uv, "venv", "--quiet", "--python", sys.executable, "bare")
        # The constraints keep this from failing on the day that something else makes a release.
        run(uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "requirements-dev.txt", wheel)
        # -I keeps this repository and PYTHONPATH out of sys.path.
        run(python, "-I", HERE / "use_wheel.py")


if __name__ == "__main__":
    main()
