"""Build llama.cpp with its Python package into benchmarks/.llama, for `make test-llama`.

The package's source archive is all that is fetched. Of it, the library alone is built, for this machine's baseline:
no tools, no server, no images. On one core that takes some minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "llama-cpp-python==0.3.36"
NEEDS = ("numpy>=2", "diskcache>=5.6.1", "jinja2>=3.1", "typing-extensions>=4.5")
PLACE = Path(__file__).parents[1] / "benchmarks" / ".llama"
SETTINGS = (
    "CMAKE_BUILD_TYPE=Release",
    "CMAKE_C_FLAGS_RELEASE=-O2 -DNDEBUG -w",
    "CMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG -w",
    "CMAKE_UNITY_BUILD=ON",
    "CMAKE_UNITY_BUILD_BATCH_SIZE=12",
    "CMAKE_BUILD_RPATH=$ORIGIN",
    "BUILD_SHARED_LIBS=ON",
    "GGML_NATIVE=OFF",
    "GGML_OPENMP=OFF",
    "GGML_LLAMAFILE=OFF",
    "GGML_CPU_REPACK=OFF",
    *(f"LLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TOOLS", "EXAMPLES", "TESTS", "SERVER", "APP")),
)


def main() -> None:
    """Make the environment, unless it is there."""
    ready = PLACE / ".ready"
    if ready.exists() and ready.read_text() == PACKAGE:
        return
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        sys.exit("llama.cpp is built from its source; that needs cmake and a C++ compiler")
    python = PLACE / "bin" / "python"
    print(f"building llama.cpp into {PLACE} (once; some minutes)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *NEEDS], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wanted = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder, PACKAGE]
        subprocess.run([*pip, "download", *wanted], check=True)
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work / "source", filter="data")
        (source,) = (work / "source").iterdir()
        settings = [f"-D{setting}" for setting in SETTINGS]
        subprocess.run(
            ["cmake", "-S", source / "vendor" / "llama.cpp", "-B", work / "build", *settings], check=True
        )
        subprocess.run(["cmake", "--build", work / "build", "--target", "llama", "--parallel"], check=True)
        package = Path(site) / "llama_cpp"
        shutil.copytree(source / "llama_cpp", package)
        libraries = package / "lib"
        libraries.mkdir(exist_ok=True)
        for library in (work / "build" / "bin").glob("lib*"):
            shutil.copy(library, libraries / library.name, follow_symlinks=True)
    subprocess.run([python, "-c", "import llama_cpp"], check=True)
    ready.write_text(PACKAGE)


if __name__ == "__main__":
    main()
