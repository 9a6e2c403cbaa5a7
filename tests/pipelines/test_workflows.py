"""The example pipelines: the one of Snakemake is run by it, the commands of the one of Nextflow are run by a shell."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = ROOT / ".venv/pipelines/bin"  # where `make pipelines` puts them
SMALL = "--features 4 --depth 2 --epochs 1 --patch-size 84 --workers 0"
MAIN = (HERE / "nextflow/main.nf").read_text(encoding="utf-8")
PARSE = "import sys; from groovy_parser.parser import parse_groovy_content as parse; parse(open(sys.argv[1]).read())"


def tool(name):
    """The program of this name, in the environment of the pipelines or on the path."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed: make pipelines")
    return found


def environment(place):
    """The variables of a job: `unet` is on the path and is the one under test."""
    (place / "bin").mkdir()
    unet = place / "bin/unet"
    unet.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unetcli "$@"\n')
    unet.chmod(0o755)
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(place)}


@pytest.fixture
def cells(tmp_path):
    """A data set of eight images in a folder with a space, two scans, and their truth; the scans are links."""
    folder = tmp_path / "my cells"
    for kind in ("images", "masks"):
        shutil.copytree(ROOT / "sample_data/train" / kind, folder / "data" / kind)
        for number in (0, 1, 2, 3):
            (folder / "data" / kind / f"cell_{number:02}.tif").unlink()
    (folder / "scans").mkdir()
    (folder / "truth").mkdir()
    for name in ("cell_12.tif", "cell_13.tif"):
        (folder / "scans" / name).symlink_to(ROOT / "sample_data/test/images" / name)
        shutil.copy(ROOT / "sample_data/test/masks" / name, folder / "truth")
    return folder


def check_results(folder, scans):
    """Fail unless there are a model, a mask for every scan, scores of every mask and a page."""
    assert (folder / "unet.safetensors").is_file()
    assert (folder / "unet.run/history.csv").is_file()
    for name in scans:
        assert tifffile.imread(folder / "masks" / name).shape == (320, 320)
    assert [row["name"] for row in json.loads((folder / "scores.json").read_text())["rows"]] == [
        name.removesuffix(".tif") for name in scans
    ]
    assert "<html" in (folder / "report.html").read_text()


def snakemake(place, cells, variables, *more, code=0):
    config = [f"{name}={cells / name}" for name in ("data", "scans", "truth")]
    command = [tool("snakemake"), "-s", HERE / "snakemake/Snakefile", "--cores", "2", *more]
    ran = subprocess.run([*command, "--config", *config, f"train={SMALL}"], cwd=place, env=variables, timeout=300,
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_snakemake(tmp_path, cells):
    """A clean run makes everything; a new scan is segmented without training again; then there is nothing to do."""
    variables = environment(tmp_path)
    snakemake(tmp_path, cells, variables)
    check_results(tmp_path / "results", ["cell_12.tif", "cell_13.tif"])
    trained = (tmp_path / "results/unet.safetensors").stat().st_mtime_ns
    for kind, source in (("scans", "images"), ("truth", "masks")):
        shutil.copy(ROOT / "sample_data/test" / source / "cell_14.tif", cells / kind)
    snakemake(tmp_path, cells, variables)
    check_results(tmp_path / "results", ["cell_12.tif", "cell_13.tif", "cell_14.tif"])
    assert (tmp_path / "results/unet.safetensors").stat().st_mtime_ns == trained
    assert "Nothing to be done" in snakemake(tmp_path, cells, variables)


def test_snakemake_stops_at_a_bad_scan(tmp_path, cells):
    """The other mask is made, nothing is scored, and the log of the job says why."""
    (cells / "scans/cell_13.tif").unlink()
    (cells / "scans/cell_13.tif").write_bytes(b"hello")
    snakemake(tmp_path, cells, environment(tmp_path), "--keep-going", code=1)
    results = tmp_path / "results"
    assert sorted(path.name for path in (results / "masks").iterdir()) == ["cell_12.tif"]
    assert not (results / "scores.json").exists()
    assert re.search(r"(?m)^error: .*cell_13\.tif: ", (results / "logs/infer-cell_13.log").read_text())


def test_snakemake_lint(tmp_path, cells):
    """The lint asks for an environment per rule, which an example for an installed program does without."""
    found = snakemake(tmp_path, cells, environment(tmp_path), "--lint", code=1)
    assert set(re.findall(r"(?m)^ +\* (.*)$", found)) == {"Specify a conda environment or container for each rule.:"}


def test_nextflow_is_groovy():
    python = Path(tool("snakemake")).parent / "python"
    if subprocess.run([python, "-c", "import groovy_parser"], check=False, capture_output=True).returncode:
        pytest.skip("groovy-parser is not installed: make pipelines")
    ran = subprocess.run([python, "-c", PARSE, HERE / "nextflow/main.nf"], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    broken = subprocess.run([python, "-c", PARSE, "/dev/stdin"], input=MAIN.replace("{", "", 1), check=False,
                            capture_output=True, text=True)  # fmt: skip
    assert broken.returncode != 0  # the parser does find faults


def filled(process, values):
    """The script of a process with its variables filled in, as Nextflow does it."""
    script = re.search(rf'process {process} \{{.*?"""(.*?)"""', MAIN, re.S)[1]
    return re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], script)


def outputs_of(process):
    """The names of the files that a process says it makes."""
    block = re.search(rf"process {process} \{{.*?output:(.*?)script:", MAIN, re.S)[1]
    return re.findall(r"path ['\"]([^'\"]+)['\"]", block)


def test_nextflow_commands(tmp_path, cells):
    """Each process in a folder of its own, its inputs linked into it, and its declared outputs looked for."""
    variables = environment(tmp_path)

    def perform(process, inputs, **values):
        work = tmp_path / f"{process}-{values.get('number', 0)}"
        for name, target in inputs.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).symlink_to(target)
        values = {"task.cpus": "1", "params.train": SMALL, **values}
        script = f"set -ue\n{filled(process, values)}"
        ran = subprocess.run(["bash", "-c", script], cwd=work, env=variables, timeout=200, check=False,
                             capture_output=True, text=True)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        made = [re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], name) for name in outputs_of(process)]
        assert made
        for name in made:
            assert (work / name).exists(), name
        return work

    trained = perform("TRAIN", {"data": cells / "data"}, data="data")
    masks = {}
    for name in ("cell_12", "cell_13"):
        inputs = {"unet.safetensors": trained / "unet.safetensors", f"scans/{name}.tif": cells / f"scans/{name}.tif"}
        values = {"model": "unet.safetensors", "scan": f"scans/{name}.tif", "scan.baseName": name, "number": name}
        masks[f"masks/{name}.tif"] = perform("INFER", inputs, **values) / f"{name}.tif"
    perform("EVALUATE", {**masks, "truth": cells / "truth"}, truth="truth")
