"""Makes the wheel: `python3 build.py [EVALUATOR.wasm] [--wheel-dir FOLDER]`."""

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE / "../../target/wasm32-wasip2/release/portcullis_evaluator.wasm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluator", nargs="?", type=pathlib.Path, default=BUILT)
    parser.add_argument("--wheel-dir", default="dist")
    arguments = parser.parse_args()
    if not arguments.evaluator.exists():
        sys.exit(
            f"there is no {arguments.evaluator}; it is made by\n\n"
            "    cargo build --release --target wasm32-wasip2 --package portcullis-evaluator\n"
        )
    shutil.copy(arguments.evaluator, HERE / "src/portcullis_policy/evaluator.wasm")
    # The evaluator has data of the public suffix list, which is under MPL-2.0.
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        file = HERE / "../.." / name
        if file.exists():
            shutil.copy(file, HERE / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", arguments.wheel_dir, str(HERE)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
