"""Makes the checkpoints and has mergekit merge the recipes of this folder.

    python tests/golden/make.py MERGEKIT_PYTHON             # all recipes
    python tests/golden/make.py MERGEKIT_PYTHON slerp-t     # some
    python tests/golden/make.py --inputs                    # the checkpoints alone

MERGEKIT_PYTHON is the interpreter of an environment with mergekit. Recipes where its rounding matters (`exceptions.py`)
are merged in float64 as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from checkpoints import make_inputs  # beside this file, as is the next
from exceptions import ROUNDING
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
DRIVER = HERE.parents[1] / "bench" / "mergekit_batch.py"


def merge(python: Path, names: list[str]) -> None:
    """Have mergekit merge recipes, and keep what comes out."""
    driver = subprocess.Popen(
        [python, DRIVER], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert driver.stdin
    assert driver.stdout
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            for ending in ("", ".float64")[: 1 + (name in ROUNDING)]:
                recipe, out = Path(temporary) / "recipe.yml", Path(temporary) / "out"
                content = yaml.safe_load((HERE / f"{name}.yml").read_text())
                if ending:
                    content |= {"dtype": "float64", "out_dtype": "float32"}
                recipe.write_text(yaml.safe_dump(content))
                driver.stdin.write(json.dumps({"recipe": str(recipe), "out": str(out)}) + "\n")
                error = json.loads(driver.stdout.readline())["error"]
                if error:
                    sys.exit(f"{name}: {error}")
                tensors = {key: value for file in out.glob("*.safetensors") for key, value in load_file(file).items()}
                save_file(dict(sorted(tensors.items())), HERE / f"{name}{ending}.safetensors")
                shutil.rmtree(out)
                print(f"{name}{ending}", flush=True)
    driver.stdin.close()
    driver.wait()


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", action="store_true", help="make the checkpoints too")
    parser.add_argument("python", nargs="?", type=Path, help="interpreter of mergekit's environment")
    parser.add_argument("cases", nargs="*", help="recipes [all]")
    args = parser.parse_args()
    if args.inputs:
        make_inputs(HERE / "models")
    if args.python:
        merge(args.python, args.cases or sorted(path.stem for path in HERE.glob("*.yml")))


if __name__ == "__main__":
    main()
