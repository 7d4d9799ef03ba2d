"""Run every benchmark that needs no files of yours: `make bench`, about twenty minutes on two cores.

To compare train_step and time_to_loss with nanoGPT, run them alone and pass the path of its checkout.
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
