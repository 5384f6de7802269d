"""Run every benchmark, one after the other: `make bench`. Each script writes its figures to benchmarks/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    here, failed = Path(__file__).resolve().parent, []
    for script in [*sorted(here.glob("*_speed.py")), here / "scores_peers.py", here / "sampling_cost.py"]:
        print(f"\n== {script.name}", flush=True)
        if subprocess.run([sys.executable, str(script)]).returncode:
            failed.append(script.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
