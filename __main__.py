"""`python -m interest_lm` is the `interest-lm` command."""

from .cli import main


if __name__ == "__main__":
    main()
