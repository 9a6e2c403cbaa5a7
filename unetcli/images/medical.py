"""What NIfTI and DICOM have in common: packages that come with the extra ``medical``."""

from pathlib import Path

from unetcli.errors import InputError


def needed_package(path: Path, format: str, package: str) -> InputError:
    """Return the error of a medical file whose reader is not installed."""
    return InputError(f"is {format}, which needs {package}", path=path, hint="pip install 'unetcli[medical]'")
