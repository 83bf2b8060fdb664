"""`python -m lowrise`, and `accelerate launch -m lowrise`: the command."""

from lowrise.cli import main

main()
