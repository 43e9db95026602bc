"""A unit of systemd for a node or a server: made on its own machine, so that nobody else says what runs there."""

import getpass
import sys
from pathlib import Path

NAME = "secure-afl.service"
_UNIT = """\
# Copy this file to /etc/systemd/system/, then: systemctl enable --now {name}
[Unit]
Description=secure-afl {what}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={program} {command} {argument}
Environment=SECURE_AFL_LOG=json
# With a passphrase on identity.key (see systemd-creds):
# LoadCredentialEncrypted=passphrase:/etc/credstore.encrypted/secure-afl
# Environment=SECURE_AFL_PASSPHRASE_FILE=%d/passphrase
Restart=always
RestartSec=2
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths={folder}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit(command: str, folder: Path, what: str) -> str:
    """The text of a unit that runs `secure-afl COMMAND FOLDER` as who calls this, with the program that is installed here."""
    return _UNIT.format(
        name=NAME,
        what=what.replace("%", "%%"),
        command=command,
        folder=_word(str(folder.absolute())),
        user=_word(getpass.getuser()),
        argument=_argument(str(folder.absolute())),
        program=_argument(str(Path(sys.executable).absolute().parent / "secure-afl")),
    )


def _argument(text: str) -> str:
    """The same in a command line, where $ begins a variable."""
    return _word(text).replace("$", "$$")


def _word(text: str) -> str:
    """What systemd reads as the text: % begins one of its own names, a space ends a word."""
    return "".join(f"\\x{ord(one):02x}" if one in " \"'\\" or ord(one) < 32 else one for one in text).replace(
        "%", "%%"
    )
