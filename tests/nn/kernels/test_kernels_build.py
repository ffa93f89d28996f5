"""What the installation compiles, and what it says where it cannot."""

import ctypes
import platform
import shutil
from pathlib import Path

import pytest

from mobilenas.nn.kernels import build

linux = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="for Linux on x86-64"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a small source, apart from the installed one."""
    path = tmp_path / "bottleneck.cpp"
    path.write_text('#include "loops.h"\nextern "C" int lanes() { return LANES; }\n')
    path.with_name("loops.h").write_text("#define LANES 7\n")
    path.with_name("norms.h").touch()
    monkeypatch.setattr(build, "SOURCE", path)
    return path


def libraries(source: Path) -> set[Path]:
    return set(source.parent.glob("*.so"))


@linux
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_library_belongs_to_its_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build.build()
    assert libraries(source) == set(made) and len(made) == len(build.TARGETS)
    assert ctypes.CDLL(str(build.library_path("x86-64-v3"))).lanes() == 7
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert build.build() == made  # there is nothing to do
    monkeypatch.delenv("CXX")
    for file, text in (
        ("bottleneck.cpp", "\n"),
        ("norms.h", "\n"),
        ("loops.h", "#undef LANES\n#define LANES 8\n"),
    ):
        with source.with_name(file).open("a") as stream:
            stream.write(text)
        assert not build.library_path("x86-64-v3").exists()
        assert libraries(source) == set(made)
        again = build.build()
        assert libraries(source) == set(again) and set(again).isdisjoint(made)
        made = again
    assert ctypes.CDLL(str(build.library_path("x86-64-v3"))).lanes() == 8


@linux
def test_without_a_compiler_it_is_said_which(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++ -g")
    with pytest.raises(build.NotBuilt, match=r"no C\+\+ compiler: .*/nowhere/c"):
        build.build()


@linux
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_compiler_that_fails_leaves_nothing(source: Path) -> None:
    source.write_text("this is no C++")
    with pytest.raises(build.NotBuilt, match=r"failed: .*error"):
        build.build()
    headers = {source.with_name(name) for name in build.HEADERS}
    assert set(source.parent.iterdir()) == {source, *headers}


def test_other_systems_get_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(build.NotBuilt, match="arm64"):
        build.build()
