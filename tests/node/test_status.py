"""What an operator sees of a run: who has answered, how long it may last, what came of earlier ones; on this machine alone."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from shutil import which

import pytest
from typer.testing import CliRunner
from worlds.folders import Federation
from worlds.patience import HANG

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from flwr.app import Message
from worlds.grids import LocalGrid, answering, node, without_an_engine

from secure_afl.node import flower_app, status
from secure_afl.node.progress import PROGRESS
from secure_afl.node.status import StatusServer
from secure_afl.protocol.session.errors import FileError, RoundAbortedError
from secure_afl.protocol.transport.flower import records
from secure_afl.protocol.transport.post import Channel
from secure_afl.simulations.cli.main import app


def said(path: Path) -> dict[str, str]:
    return {one.title: "\n".join(one.lines) for one in status.sections(path)}


def test_a_run_is_seen_while_it_goes_on_and_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after one that failed: each run's files stay in a folder of their own."""
    without_an_engine(monkeypatch)
    federation = Federation(tmp_path)
    seen: list[str] = []

    def reply(at: int, message: Message) -> Message | None:
        envelope = records.to_envelope(message.content)
        if envelope.channel is Channel.MASKED:
            seen.append(said(federation.server)["Run"])
        lost = at > 101 and envelope.channel is Channel.MASKED
        return None if lost else node(federation, at - 100, message)

    with pytest.raises(RoundAbortedError):
        flower_app.serve(LocalGrid(4, reply), federation.server, 60.0, 0.01)
    assert "phase advertising, which ends in " in seen[0]
    assert all(f"{name}: waited for" in seen[0] for name in federation.names)
    failed = said(federation.server)
    assert "the last run failed" in failed["Run"]
    assert "no model: " in failed["Past runs"]
    flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 60.0, 0.01)
    learned = said(federation.server)
    assert learned["Run"] == "the last run learned"
    assert "a model from sums over 4 clients" in learned["Past runs"]
    assert len(learned["Past runs"].splitlines()) == 2
    (kept,) = (federation.server / "runs").glob("*/model.npz")
    assert kept.read_bytes() == (federation.server / "model.npz").read_bytes()


def test_who_has_answered_is_named_with_its_bytes(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    about = {"began": 0.0, "deadline": 9.0, "over": "", "phase": "collecting", "since": 0.0}
    (federation.server / PROGRESS).write_text(
        json.dumps({**about, "asked": ["site-0", "site-1"], "answered": {"site-1": 1234}})
    )
    run = said(federation.server)["Run"]
    assert "site-0: waited for" in run
    assert "site-1: answered with 1,234 bytes" in run
    assert "was the run stopped?" in run


@contextmanager
def shown(path: Path) -> Iterator[tuple[str, int]]:
    with StatusServer(path, "127.0.0.1:0") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "127.0.0.1", int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(HANG)


def asked(at: tuple[str, int], method: str = "GET", path: str = "/", host: str = "") -> tuple[int, str, str]:
    """Status, the policy of its content, and the page."""
    connection = http.client.HTTPConnection(*at, timeout=HANG)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{at[1]}"})
    answer = connection.getresponse()
    found = answer.status, answer.headers.get("Content-Security-Policy", ""), answer.read().decode()
    connection.close()
    return found


def test_the_page_shows_the_same_and_nothing_in_it_is_markup_or_a_script(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    about = {"began": 0.0, "deadline": 9.0, "over": "", "phase": "<script>", "since": 0.0}
    (federation.server / PROGRESS).write_text(json.dumps({**about, "asked": [], "answered": {}}))
    with shown(federation.server) as at:
        code, policy, text = asked(at)
    assert code == 200
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "default-src 'none'" in policy
    assert "site-0, site-1, site-2, site-3" in text


def test_nobody_elses_page_reads_it_and_nobody_writes(tmp_path: Path) -> None:
    """DNS rebinding: an attacker's host name that resolves to loopback gets in unless the server checks `Host`."""
    federation = Federation(tmp_path)
    with shown(federation.server) as at:
        assert asked(at, host="evil.example")[0] == 403
        assert asked(at, host=f"evil.example:{at[1]}")[0] == 403
        assert asked(at, path="/identity.key")[0] == 404
        assert asked(at, path="/../identity.key")[0] == 404
        assert asked(at, method="POST")[0] == 501
        assert asked(at, host=f"localhost:{at[1]}")[0] == 200


CHROMIUM = which("chromium") or ""
with_a_browser = pytest.mark.skipif(
    not CHROMIUM, reason="NO CHROMIUM: no browser looks at the page here (apt-get install chromium)"
)


def chromium(home: Path, at: tuple[str, int], *more: str) -> list[str]:
    """The command that opens the page without a window, as a user of no account."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    return [CHROMIUM, *flags, f"--user-data-dir={home / 'chromium'}", *more, f"http://{at[0]}:{at[1]}/"]


@with_a_browser
@pytest.mark.long
def test_a_browser_shows_parties_phase_bytes_and_past_runs_and_runs_nothing_of_them(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    about = {"began": 0.0, "deadline": 9.0, "over": "", "phase": "collecting", "since": time.time()}
    hostile = "<script>document.title = 'read'</script>"
    (federation.server / PROGRESS).write_text(
        json.dumps({**about, "asked": ["site-0", hostile], "answered": {"site-0": 1234}})
    )
    past = federation.server / "runs" / "2026-10-01T10-00-00.000000Z"
    past.mkdir(parents=True)
    (past / "failure.json").write_text(json.dumps({"reason": "too few", "silences": ["site-2 was away"]}))
    with shown(federation.server) as at:
        found = subprocess.run(
            chromium(tmp_path, at, "--dump-dom"), capture_output=True, text=True, check=True, timeout=HANG
        ).stdout
    lines = [unescape(line) for line in re.findall("<li>(.*?)</li>", found)]
    assert any(line.startswith("phase collecting, which ends in ") for line in lines)
    assert "site-0: answered with 1,234 bytes" in lines
    assert f"{hostile}: waited for" in lines
    assert "2026-10-01T10-00-00.000000Z: no model: too few (no answer: site-2 was away)" in lines
    assert "<title>secure-afl</title>" in found


@with_a_browser
@pytest.mark.long
def test_a_browser_reads_the_page_again_by_itself(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    asked_again = threading.Semaphore(0)
    with shown(federation.server) as at:
        told = status.page

        def counted(path: Path) -> str:
            asked_again.release()
            return told(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(status, "page", counted)
            with (tmp_path / "log").open("wb") as log:
                browser = subprocess.Popen(
                    chromium(tmp_path, at, "--remote-debugging-port=0"),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                try:
                    assert all(asked_again.acquire(timeout=HANG) for _ in range(3))
                finally:
                    os.killpg(browser.pid, signal.SIGKILL)
                    browser.wait()


@pytest.mark.parametrize(
    "at", ["0.0.0.0:0", "192.0.2.1:80", "server.example:80", "127.0.0.1", "127.0.0.1:99999"]
)
def test_the_page_is_for_this_machine_alone(tmp_path: Path, at: str) -> None:
    with pytest.raises(FileError, match=r"127\.0\.0\.1"):
        StatusServer(tmp_path, at)


def test_a_folder_that_cannot_be_read_says_so_on_the_page(tmp_path: Path) -> None:
    assert "study.toml" in status.page(tmp_path)
    done = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert done.exit_code == 1
