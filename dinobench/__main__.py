"""`python -m dinobench` is the `dinobench` command."""

from dinobench.cli.app import main

if __name__ == "__main__":
    main()
