"""Do the kernels compute the right numbers with GCC, with clang, and on ARM in an emulator?

    python benchmarks/robustness/compilers.py --cases 200

Random calls and their results (kernel_cases.py) go into a file. A program in C (compilers.c) contains the kernels as
they are shipped, reads the file and compares. Each compiler builds it, with every warning an error. It runs with each
instruction set that this machine has, and for ARM in qemu. Every tile of geometry.py is used at least once.
Results must stay between guards, and a build with sanitizers must find no wrong read or write.

Needs gcc, clang, aarch64-linux-gnu-gcc and qemu-aarch64 (Debian: gcc clang gcc-aarch64-linux-gnu qemu-user).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kernel_cases import write_cases

from flash_pl.kernels.geometry import Machine

ROOT = Path(__file__).parents[2]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
SHIPPED = ["-O3", "-fno-math-errno"]  # as in setup.py
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
X86 = {"baseline": Machine(4, 16), "avx2": Machine(8, 16), "avx512": Machine(16, 32)}
ARM = {"baseline": Machine(4, 32)}
EMULATOR = ("qemu-aarch64",)


@dataclass(frozen=True)
class Build:
    compiler: list[str]
    flags: list[str]
    machines: dict[str, Machine]
    emulator: tuple[str, ...] = ()


BUILDS = {
    "gcc": Build(["gcc"], SHIPPED, X86),
    "clang": Build(["clang"], SHIPPED, X86),
    "gcc-sanitizers": Build(["gcc"], SANITIZERS, X86),
    "arm-gcc": Build(["aarch64-linux-gnu-gcc"], [*SHIPPED, "-static"], ARM, EMULATOR),
    "arm-clang": Build(["clang", "--target=aarch64-linux-gnu"], [*SHIPPED, "-static"], ARM, EMULATOR),
}


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout.strip()


def check(name: str, build: Build, cases: dict[Machine, Path], folder: Path) -> bool:
    """Build and run; print the results. Return whether all is right."""
    missing = [each for each in (build.compiler[0], *build.emulator) if shutil.which(each) is None]
    if missing:
        print(f"{name}: {', '.join(missing)} not found")
        return False
    program = folder / name
    sources = ["-I", str(ROOT / "flash_pl/kernels/csrc"), str(Path(__file__).with_suffix(".c"))]
    code, output = run([*build.compiler, *WARNINGS, *build.flags, *sources, "-o", str(program), "-lm"])
    if code or output:
        print(f"{name}: does not compile without a warning\n{output}")
        return False
    right = True
    for isa, machine in build.machines.items():
        code, output = run([*build.emulator, str(program), str(cases[machine]), isa])
        print(f"{name}, {isa}: {output}" + (f" (exit code {code})" if code else ""), flush=True)
        right = right and code in (0, 3)  # 3: this machine lacks the instruction set
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="random convolutions, and as many other cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--builds", nargs="+", choices=BUILDS, default=list(BUILDS))
    arguments = parser.parse_args()
    builds = {name: BUILDS[name] for name in arguments.builds}
    with tempfile.TemporaryDirectory() as temporary:
        folder, cases = Path(temporary), {}
        for machine in {machine: None for build in builds.values() for machine in build.machines.values()}:
            cases[machine] = folder / f"cases_{machine.vector}_{machine.registers}"
            write_cases(cases[machine], machine, arguments.cases, arguments.seed)
        right = [check(name, build, cases, folder) for name, build in builds.items()]
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
