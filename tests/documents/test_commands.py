"""docs/cli.md has every command and option of the program."""

from typer.main import get_command

from documents import commands
from secure_afl.simulations.cli.main import app


def test_the_page_is_that_of_the_program() -> None:
    assert commands.PAGE.read_text() == commands.page(), "run python tests/documents/commands.py"


def test_every_command_and_option_says_what_it_is_for() -> None:
    for path, command in commands.commands(get_command(app)):
        assert command.help, path
        for one in command.params:
            if one.param_type_name == "option":
                assert one.help, (path, one.opts)
