"""`python -m traitline`: the command line where the script `traitline` is not on the path."""

from traitline.cli import main

if __name__ == "__main__":
    main()
