"""`python -m stockpot`."""

from stockpot.cli import main

if __name__ == "__main__":
    main()
