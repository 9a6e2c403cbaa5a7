"""What strangers send, and what must not leak (FAULTS, B7). Pickles in model files: test_bad_models.py."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, OLD

import unetcli
from unetcli.cli import run

ROOT = Path(unetcli.__file__).parent
FORBIDDEN = {
    r"\bpickle\.|import pickle|cPickle|dill|joblib\.load": "pickle",
    r"weights_only\s*=\s*False|torch\.load\(": "torch.load",
    r"allow_pickle\s*=\s*True": "numpy pickles",
    r"extractall\(": "archives",
    r"yaml\.(unsafe_)?load\(": "yaml",
    r"(?<![\w.])(eval|exec)\(": "eval",
    r"shell\s*=\s*True|os\.system\(|os\.popen\(": "a shell",
    r"np\.load\(|numpy\.load\(": "numpy files",
    r"urlopen|requests\.|torch\.hub|create_connection": "the network",
}


@pytest.mark.parametrize("pattern", FORBIDDEN, ids=FORBIDDEN.values())
def test_dangerous_calls(pattern):
    """SEC02."""
    own = ("evaluation/prediction.py", "inference/work.py")
    allowed = {"np.load(": own}  # files of its own, without pickles
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line.partition("#")[0])
        and '"""' not in line
        and not any(call in line and str(path).endswith(places) for call, places in allowed.items())
    ]
    assert not found


def test_modules_in_the_working_folder(home, place, models):
    """SEC04: files of the working folder are data, not code."""
    for name in ("torch", "albumentations", "numpy", "tifffile", "json", "unetcli_extra", "sitecustomize"):
        (place / f"{name}.py").write_text(f"open({str(place / 'canary')!r}, 'w')\nraise SystemExit(99)\n")
    script = Path(sys.executable).parent / "unet"
    if not script.exists():
        pytest.skip("the program is not installed as a command here")
    scan = str(home / "cells/images/c0.tif")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    for command in ([script], [sys.executable, "-m", "unetcli"]):
        ran = subprocess.run([*command, "infer", scan, "-o", "m.tif", "-m", models["gray"]], cwd=place, timeout=60,
                             env=environment, capture_output=True, text=True, check=False)  # fmt: skip
        if command == [script]:
            assert ran.returncode == 0, ran.stderr
            assert not (place / "canary").exists()
            tifffile.imread(place / "m.tif")
            break


@pytest.mark.parametrize("name", ["$(touch x).tif", ";touch x;.tif", "`touch x`.tif", "|touch x.tif", "a\x1b[31mb.tif"])
def test_names_are_data(name, place, models, capsys):
    """SEC05, and no escape sequence of a name reaches the terminal."""
    tifffile.imwrite(place / name, discs(0)[0])
    assert run(["infer", name, "-o", "out/", "-m", models["gray"], "--objects", "tables"]) == 0
    assert [path.name for path in (place / "out").iterdir()] == [name]
    assert "\x1b" not in capsys.readouterr().err
    assert not (place / "x").exists()
    (place / name).write_bytes(b"")
    assert run(["infer", name, "-o", "out/", "-m", models["gray"]]) == 3
    assert "\x1b" not in capsys.readouterr().err


def test_reports_escape_names(home, place):
    """SEC06."""
    name = "<script>alert(1)<;script>.tif"
    for folder in ("predicted", "truth"):
        (place / folder).mkdir()
        (place / folder / name).write_bytes((home / "cells/masks/c0.tif").read_bytes())
    assert run(["evaluate", "predicted", "truth", "--report", "r.html", "-q"]) == 0
    report = (place / "r.html").read_text()
    assert "alert(1)" in report
    assert "<script>alert" not in report


@pytest.mark.parametrize("to", ["file", "nothing"])
def test_links_are_replaced_and_not_followed(to, place, models, home):
    """SEC07: what a link at the output leads to stays as it was."""
    (place / "precious").write_bytes(OLD)
    (place / "document").write_text('{"schema": 1}')
    outputs = {"m.tif": "precious", "r.json": "document", "t.csv": "precious"}
    for link, target in outputs.items():
        (place / link).symlink_to(target if to == "file" else "absent")
    scan = str(home / "cells/images/c0.tif")
    assert (
        run(["infer", scan, "-o", "m.tif", "-m", models["gray"], "--json", "r.json", "--objects", "t.csv", "-q"]) == 0
    )
    assert (place / "precious").read_bytes() == OLD
    assert (place / "document").read_text() == '{"schema": 1}'
    assert not (place / "absent").exists()
    for link in outputs:
        assert not (place / link).is_symlink()
        assert (place / link).stat().st_size > len(OLD)


def test_secrets_stay_where_they_are(home, place, zygote):
    """SEC08: neither the environment nor local variables are written down or shown."""
    secret = "hunter2-9f8e7d"
    environment = {"UNET_TOKEN": secret, "AWS_SECRET_ACCESS_KEY": secret, "HOME": str(place)}
    arguments = ["train", home / "cells", "-o", "new.safetensors", *FAST, "--json", "r.json", "--debug"]
    assert zygote.start(arguments, place, environment=environment).wait() == 0
    (place / "bad.tif").write_bytes(b"")
    arguments = ["infer", "bad.tif", "-o", "m.tif", "-m", "new.safetensors", "--debug"]
    assert zygote.start(arguments, place, environment=environment).wait() == 3
    assert "Traceback" in (place / "err").read_text()
    for path in place.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000], ids=oct)
def test_permissions(umask, home, place, zygote):
    """SEC09: files have the permissions that any new file has."""
    arguments = ["train", home / "cells", "-o", "new/unet.safetensors", *FAST, "--json", "r.json"]
    assert zygote.start(arguments, place, umask=umask).wait() == 0
    arguments = ["infer", home / "cells/images/c0.tif", "-o", "m.tif", "-m", "new/unet.safetensors",
                 "--overlay", "o.png", "--objects", "t.csv", "--probabilities", "p.tif"]  # fmt: skip
    assert zygote.start(arguments, place, umask=umask).wait() == 0
    files = [f"new/unet.run/{name}" for name in ("history.csv", "config.json", "report.html")]
    files += ["new/unet.safetensors", "r.json", "m.tif", "o.png", "t.csv", "p.tif"]
    for name in files:
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o666 & ~umask, name
    assert stat.S_IMODE((place / "new/unet.run").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("command", ["infer", "train", "evaluate"])
def test_the_document_replaces_no_input(command, home, place, models, capsys):
    """A --json that names an input is refused, and the failure itself is not written there either."""
    (place / "a.tif").write_bytes((home / "cells/images/c0.tif").read_bytes())
    before = (place / "a.tif").read_bytes()
    arguments = {
        "infer": ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"]],
        "train": ["train", "a.tif", str(home / "cells/masks/c0.tif"), *FAST],
        "evaluate": ["evaluate", "a.tif", str(home / "cells/masks/c0.tif")],
    }[command]
    assert run([*arguments, "--json", "a.tif"]) == 2
    assert "error: a.tif: exists and is no document of this program" in capsys.readouterr().err
    assert (place / "a.tif").read_bytes() == before
    assert [path.name for path in place.iterdir()] == ["a.tif"]


def test_names_that_are_no_text(home, place, models):
    """Documents, tables and reports are written where a name cannot be decoded."""
    name = os.fsdecode(b"\xe9.tif")
    for folder, source in (("scans", "images"), ("truth", "masks")):
        (place / folder).mkdir()
        (place / folder / name).write_bytes((home / "cells" / source / "c0.tif").read_bytes())
    assert run(["infer", f"scans/{name}", "-o", "out/", "-m", models["gray"], "--json", "r.json", "-q"]) == 0
    assert json.loads((place / "r.json").read_text())["outputs"][0]["input"] == f"scans/{name}"
    more = ["--json", "e.json", "--csv", "e.csv", "--report", "e.html", "--overlays", "pictures", "-q"]
    assert run(["evaluate", "out", "truth", *more]) == 0
    for written in ("e.json", "e.csv", "e.html"):
        assert (place / written).stat().st_size > 100
