"""The compiled kernels, the names of their file and of the wheel, the README on PyPI; all else is in pyproject.toml.

The kernels use nothing of Python: ctypes loads them (``flash_pl/kernels/library.py``). So one file serves every Python,
and the wheel of a platform is called ``py3-none-PLATFORM``. A wheel of Python's stable ABI (``abi3``) would say less:
Pythons without the GIL do not take it.

PyPI shows the README without the files beside it, so its links become addresses of the repository.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("flash_pl/kernels/csrc")  # setuptools runs this file in its own folder


class KernelBuild(build_ext):
    """Names the library without the version of the Python that compiled it."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".pyd" if os.name == "nt" else ".so")

    def copy_extensions_to_source(self) -> None:
        # Python prefers a name with its own version, so an earlier library would hide the new one.
        for earlier in SOURCES.parent.glob("_native.*.so"):
            earlier.unlink()
        super().copy_extensions_to_source()


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def readme() -> str:
    """Return the README with links to the repository in place of links to files."""
    (source,) = re.findall(r'^Source = "(.+)"', Path("pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    def absolute(link: re.Match[str]) -> str:
        return f"{link[1]}{source}/{'raw' if link[1].startswith('!') else 'blob'}/main/{link[2]})"

    link = re.compile(r"(!?\[[^\]]*\]\()(?![a-z]+:|#)([^)]+)\)")
    return link.sub(absolute, Path("README.md").read_text(encoding="utf-8"))


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    cmdclass={"build_ext": KernelBuild, "bdist_wheel": PlatformWheel},
    ext_modules=[
        Extension(
            "flash_pl.kernels._native",
            [str(SOURCES / "native.c")],
            depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
            extra_compile_args=["-O3", "-fno-math-errno", "-g0"],
            extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],  # without a table of symbols
            optional=True,  # without a compiler the package installs all the same, and torch computes the layers
        )
    ],
)
