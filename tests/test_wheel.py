"""The built wheel gives a working `train`, with its configs and its data, from any folder."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def build(source: Path, target: str, folder: Path) -> Path:
    """Builds a wheel or an sdist of a source tree with this environment's hatchling, so without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    (file,) = (path for path in folder.iterdir() if path.suffix == {"wheel": ".whl", "sdist": ".gz"}[target])
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel alone; torch and the rest, gigabytes, are read from the environment of the tests."""
    venv = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    # A plain line: the .pth files of that folder are not read, so the checkout itself stays out of sight.
    (packages / "of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def files_of(package: Path) -> set[str]:
    """The files of the project itself that a wheel holds."""
    with zipfile.ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("RECORD")}


def source_files(folder: str) -> set[str]:
    """The files below a folder of the checkout, without what Python leaves there."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_wheel_holds_code_configs_and_data_only(wheel: Path) -> None:
    inside = {name for name in files_of(wheel) if ".dist-info/" not in name}
    code = source_files("train") | source_files("hydra_plugins")
    assert inside == code | {f"train/{name}" for name in source_files("conf")}
    assert any(name.endswith("licenses/LICENSE") for name in files_of(wheel))


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build(ROOT, "sdist", tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "wheel").mkdir()
    assert files_of(build(source, "wheel", tmp_path / "wheel")) == files_of(wheel)


def test_wheel_provides_the_code(environment: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [str(environment / "bin/python"), "-c", "import train; print(train.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where.strip()).is_relative_to(environment)


def train(environment: Path, folder: Path, *arguments: str) -> str:
    """Runs the installed `train` in a folder; returns its output."""
    done = subprocess.run([str(environment / "bin/train"), *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_finds_configs_from_another_folder(environment: Path, tmp_path: Path) -> None:
    assert "regularization" in train(environment, tmp_path, "--help")
    assert "train.parts.norm.group" in train(environment, tmp_path, "--cfg", "job", "init=xavier", "norm=group")


@pytest.mark.long
def test_wheel_trains_from_another_folder(environment: Path, tmp_path: Path) -> None:
    train(environment, tmp_path, "trainer.max_steps=2", "trainer.device=cpu")
    assert list((tmp_path / "outputs").rglob("summary.json"))
