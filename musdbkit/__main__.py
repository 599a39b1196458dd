"""`python -m musdbkit` is the `musdbkit` command."""

from musdbkit.cli import main

if __name__ == "__main__":
    main()
