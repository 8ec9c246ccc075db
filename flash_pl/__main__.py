"""The start of a process: ``flash-pl``, and ``python -m flash_pl``, which is the same."""

import sys

from flash_pl.interrupt import ended_by_interrupt


def main() -> int:
    """Run the command in the arguments of this process; see ``flash_pl.cli.main``."""
    with ended_by_interrupt():
        from flash_pl import cli  # only here, where Ctrl-C ends the process in one line
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
