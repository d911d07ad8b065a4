"""`python -m pmm` is `pmm`."""

from pmm.cli import main

if __name__ == "__main__":
    main()
