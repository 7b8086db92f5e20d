"""`python -m apical.cli`: the command where the script `apical` is not on the path."""

from apical.cli import main

if __name__ == "__main__":
    main()
