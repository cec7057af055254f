"""``python -m wat2mds``: the same as the console script."""

from wat2mds.cli.main import main

if __name__ == "__main__":
    main()
