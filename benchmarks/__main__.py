"""`make bench`: every benchmark that needs no files of yours, one after another; some twenty minutes on two cores.

Those that stand beside nanoGPT (train_step, time_to_loss) also run by themselves, with the paths they ask for.
"""

import subprocess
import sys

ALL = (
    "encoding",
    "tokenization",
    "loader",
    "ingest_memory",
    "train_step",
    "generation",
    "import_weights",
    "sql",
    "listing",
    "mapped_task",
    "orchestration --up",
    "workers",
)


def main() -> None:
    failed = []
    for name in ALL:
        print(f"\n# {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *f"benchmarks.{name}".split()], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
