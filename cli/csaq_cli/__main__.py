"""`python -m csaq_cli`: the same as the `csaq` command."""

from csaq_cli.main import main

main()
