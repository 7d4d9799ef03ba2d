"""The command line as `tokenmill` and as `python -m tokenmill`."""

from flows.cli import main

if __name__ == "__main__":
    main()
