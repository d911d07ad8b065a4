"""Run every benchmark of this folder, one process each, and rewrite results.md: 20 minutes."""

import subprocess
import sys
from pathlib import Path

NO_BENCHMARKS = {
    "__main__",
    "__init__",
    "results",
    "stopwatch",
    "review_files",
    "claims",
    "claims_page",
    "img2dataset_peer",
    "hm_systems",
    "index_libraries",
    "recbole_parity",
    "recommend_many",
    "recbole_peer",
    "recbole_sasrec",
    "serve_http",
    "serve_replay",
    "real_encoders",
}
"""What the benchmarks share; the claims, which take hours; those beside RecBole, which
install it first and are run by themselves."""

SMALLER = {
    "ingest": ["--rows", "2e6"],
    "ingest_hm": ["--rows", "1e7"],
    "picture_download": ["--count", "200"],
    "pictures": ["--count", "400"],
}
"""Those that take longer at their full size, which they have when they are run by themselves."""


def run_all() -> int:
    """Run the benchmarks in the order of their names; the exit status is the number that failed."""
    failed = 0
    for script in sorted(Path(__file__).parent.glob("*.py")):
        if script.stem in NO_BENCHMARKS:
            continue
        print(f"== {script.stem}", flush=True)
        failed += (
            subprocess.run(
                [sys.executable, "-m", f"benchmarks.{script.stem}", *SMALLER.get(script.stem, [])],
                check=False,
            ).returncode
            != 0
        )
    return failed


if __name__ == "__main__":
    sys.exit(run_all())
