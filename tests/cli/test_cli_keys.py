"""`secure-afl keys` and `secure-afl policy` as a person meets them."""

import os
import re
import stat
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from secure_afl.cli import keys as keys_command
from secure_afl.crypto import key_pem
from secure_afl.protocol.files import keys, policy
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.session.policy import Policy
from secure_afl.simulations.cli import main

runner = CliRunner()
DOCUMENT = (Path(__file__).parents[2] / "docs" / "keys-and-policy.md").read_text(encoding="utf-8")
WORD = "correct horse battery staple"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = runner.invoke(main.app, [str(one) for one in arguments], terminal_width=100)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def refused(*arguments: str | Path) -> str:
    code, output = run(*arguments)
    assert code == 1
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    return output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(key_pem, "_COST", 16)
    monkeypatch.delenv(keys.PASSPHRASE_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def word_file(folder: Path, word: str = WORD) -> str:
    path = folder / "word"
    path.write_text(word + "\n")
    path.chmod(0o600)
    return str(path)


def secrets_of(path: Path) -> list[str]:
    """Every form of a secret key that a text could show."""
    _, identity = keys.read_key(path, WORD.encode)
    raw = identity._key.private_bytes_raw()
    return [raw.hex(), *path.read_text().splitlines()[2:-1], WORD]


def test_from_keys_to_a_roster(folder: Path) -> None:
    outputs = []
    for name in ("Hospital B", "Hospital A", "Ministry"):
        code, output = run("keys", "new", name)
        assert code == 0
        outputs.append(output)
        assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    public = [folder / "Hospital B.pub", folder / "Hospital A.pub"]
    for paths, out in ((public, "one.toml"), (public[::-1], "other.toml")):
        code, output = run("keys", "roster", *paths, "--key-holder", "Ministry.pub", "--out", out)
        assert code == 0
        outputs.append(output)
    assert (folder / "one.toml").read_bytes() == (folder / "other.toml").read_bytes()
    parties = roster_file.read(folder / "one.toml")
    assert [member.name for member in parties.clients.members] == ["Hospital A", "Hospital B"]
    assert parties.key_holders
    assert [member.name for member in parties.key_holders.members] == ["Ministry"]
    code, shown = run("keys", "show", "one.toml")
    assert code == 0
    for roster in (parties.clients, parties.key_holders):
        assert f"{roster.short_fingerprint} (short)\n" in shown
        assert f"{roster.fingerprint}\n" in shown
    outputs.append(shown)
    for name in ("Hospital A", "Ministry"):
        of_secret, of_public = run("keys", "show", f"{name}.key"), run("keys", "show", f"{name}.pub")
        assert of_secret == of_public
        assert of_public[0] == 0
        member = keys.read_public(folder / f"{name}.pub")
        assert name in of_public[1]
        assert member.verify_key.hex() in of_public[1]
        outputs.append(of_public[1])
    for path in folder.glob("*.key"):
        for secret in secrets_of(path):
            assert not [output for output in outputs if secret in output]
            assert secret not in (folder / "one.toml").read_text()


def test_a_servers_key_is_in_no_roster(folder: Path) -> None:
    """Not even with `keys roster *.pub` in the folder that holds the server's own public file."""
    for name in ("Hospital A", "Hospital B"):
        assert run("keys", "new", name)[0] == 0
    code, output = run("keys", "new", "server", "--server")
    assert code == 0
    assert "it belongs in no roster" in output
    assert run("keys", "show", "server.pub")[0] == run("keys", "show", "server.key")[0] == 0
    everything = sorted(folder.glob("*.pub"))
    for arguments in (everything, [*everything[:2], "--key-holder", "server.pub"]):
        said = refused("keys", "roster", *arguments, "--out", "roster.toml")
        assert "server.pub: expected the key of a client or key holder, got a server's (server)" in said
        assert not (folder / "roster.toml").exists()
    assert run("keys", "roster", "Hospital A.pub", "Hospital B.pub", "--out", "roster.toml")[0] == 0


def test_a_passphrase_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSPHRASE_FILE, word_file(folder))
    code, output = run("keys", "new", "A", "--passphrase")
    assert code == 0
    assert "ENCRYPTED PRIVATE KEY" in (folder / "A.key").read_text()
    assert run("keys", "show", "A.key")[0] == 0
    assert not [secret for secret in secrets_of(folder / "A.key") if secret in output]
    word_file(folder, "another passphrase")
    assert "A.key: the secret key does not open: the passphrase is wrong" in refused("keys", "show", "A.key")
    word_file(folder, "short")
    assert "at least 12 bytes" in refused("keys", "new", "B", "--passphrase")
    (folder / "word").chmod(0o644)
    assert "word: expected a file for its owner alone" in refused("keys", "show", "A.key")
    assert not (folder / "B.key").exists()


def test_a_passphrase_at_the_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "expected a terminal" in refused("keys", "new", "A", "--passphrase")
    asked = []

    def prompt(text: str, **options: object) -> str:
        asked.append(options)
        return WORD

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(keys_command, "_at_terminal", lambda: True)
    assert run("keys", "new", "A", "--passphrase")[0] == 0
    assert run("keys", "show", "A.key")[0] == 0
    assert [one["confirmation_prompt"] for one in asked] == [True, False]
    assert all(one["hide_input"] for one in asked)


def test_nothing_is_overwritten(folder: Path) -> None:
    assert run("keys", "new", "A")[0] == run("keys", "roster", "A.pub", "--out", "r")[0] == 0
    assert run("policy", "new", "p")[0] == 0
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    for command in (
        ("keys", "new", "A"),
        ("keys", "roster", "A.pub", "--out", "r"),
        ("keys", "roster", "A.pub", "--out", "A.key"),
        ("policy", "new", "p"),
    ):
        assert "expected a free name" in refused(*command)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before


def test_what_is_wrong_is_said_in_one_line(folder: Path) -> None:
    assert run("keys", "new", "A")[0] == 0
    for command, what in (
        (("keys", "show", "absent"), "absent: cannot be read: No such file"),
        (("keys", "show", "."), "expected a regular file, got a folder"),
        (("keys", "new", "a/b"), "expected a valid file name"),
        (("keys", "new", ""), "expected a printable name"),
        (("keys", "roster", "A.key", "--out", "r"), "got a secret one"),
        (("keys", "roster", "A.pub", "A.pub", "--out", "r"), "registered twice"),
        (("keys", "roster", "A.pub", "--key-holder", "A.pub", "--out", "r"), "registered twice"),
        (("policy", "explain", "absent"), "absent: cannot be read"),
        (("policy", "explain", "A.key"), "A.key: expected TOML"),
        (("policy", "explain", "A.pub"), "A.pub: expected TOML"),
    ):
        output = refused(*command)
        assert what in output
        assert not [secret for secret in secrets_of(folder / "A.key") if secret in output]
    assert not (folder / "r").exists()
    (folder / "A.key").chmod(0o604)
    assert "chmod 600 A.key" in refused("keys", "show", "A.key")
    assert run("keys", "roster", "--out", "r")[0] == 2
    assert run("keys", "new", "B", "--out", "absent")[0] == 2


def test_a_policy_in_words(folder: Path) -> None:
    assert run("policy", "new", "policy.toml")[0] == 0
    assert policy.read(folder / "policy.toml") == Policy()
    code, output = run("policy", "explain", "policy.toml")
    assert code == 0
    assert "10% of the roster" in output
    code, output = run("policy", "explain", "policy.toml", "--clients", "20")
    assert code == 0
    for words in (
        "2 clients of 20",
        "at least 4 survivors",
        "threshold is 14",
        "Up to 6 may drop out (30%)",
        "None:",
    ):
        assert words in output
    for name in "ABCD":
        assert run("keys", "new", name)[0] == 0
    clients = [f"{name}.pub" for name in "ABC"]
    assert run("keys", "roster", *clients, "--key-holder", "D.pub", "--out", "roster.toml")[0] == 0
    text = (folder / "policy.toml").read_text().replace('["mask"]', '["mask", "bfv"]')
    (folder / "policy.toml").write_text(text)
    code, output = run("policy", "explain", "policy.toml", "--roster", "roster.toml")
    assert code == 0
    for words in ("1 client of 3", "The roster names 1 key holder", "bfv: one client that helps the server"):
        assert words in output
    assert run("policy", "explain", "policy.toml", "--roster", "roster.toml", "--clients", "3")[0] == 2
    (folder / "policy.toml").write_text("corrupted = 'few'")
    assert "policy.toml: corrupted: expected a number from 0 to below 1, got 'few'" in refused(
        "policy", "explain", "policy.toml"
    )


def test_the_document_shows_what_is_printed(folder: Path) -> None:
    assert run("policy", "new", "policy.toml")[0] == 0
    code, output = run("policy", "explain", "policy.toml", "--clients", "20")
    assert code == 0
    assert f"$ secure-afl policy explain policy.toml --clients 20\n{output}```" in DOCUMENT
    widened = (folder / "policy.toml").read_text().replace('["active"]', '["active", "semi-honest"]')
    (folder / "policy.toml").write_text(widened.replace('["mask"]', '["mask", "bfv"]'))
    code, output = run("policy", "explain", "policy.toml", "--clients", "20")
    assert code == 0
    assert f"```console\n{output[output.index('Warnings') :]}```" in DOCUMENT
    line = re.search("^secure-afl-ed25519 .*$", DOCUMENT, re.MULTILINE)
    assert line
    (folder / "A.pub").write_text(line[0])
    code, output = run("keys", "show", "A.pub")
    assert code == 0
    assert output in DOCUMENT
