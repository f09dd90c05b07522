"""`python -m cdn_worker`."""

from cdn_worker.cli import main

if __name__ == "__main__":
    main()
