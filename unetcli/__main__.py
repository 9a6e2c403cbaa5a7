"""``python -m unetcli`` is the same program as ``unet``."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from unetcli.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
