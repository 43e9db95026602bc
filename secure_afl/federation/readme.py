"""The page that comes with a kit: what one party does to join, in commands."""

from pathlib import Path

from secure_afl.federation.papers import Kit, Part, fingerprint
from secure_afl.federation.project import parse, slug
from secure_afl.node.site import study_folder

_PAGE = """\
# {name}: how to join "{project}"

You are a {part} of {parties} clients{holders}. Questions: {contact}

You need a Linux machine with Python 3.11 or newer that can reach {server} (TCP), and this kit. Your rows and your secret
keys stay on your machine. Run these commands as the user of the node, not as root. If that user may not write to /opt and
/srv, an administrator makes the two folders first: install -d -m 700 -o THAT_USER /opt/secure-afl /srv/secure-afl

    python3 -m venv /opt/secure-afl && /opt/secure-afl/bin/pip install 'secure-afl[{extras}]'
    export PATH=/opt/secure-afl/bin:$PATH

1. Join. It makes your keys, and a file to send back, and says what the study is.

       secure-afl join {slug}.zip /srv/secure-afl{table}

{tables}   Read both fingerprints that it prints to the coordinator by telephone: yours, and the coordinator's, which should be

       {coordinator}

   Send `{slug}.answer.json` to the coordinator. It is public.

2. When all parties have answered you get one more file, the roster. Accept it, and compare the fingerprint that it prints
   with the **other parties**, not only with the coordinator.

       secure-afl accept /srv/secure-afl 1.json

3. Read what {studies} (`secure-afl study show`), and decide{each}. Your name and reason go into your audit log, signed.

{approvals}

4. Look for anything that would keep you from a session{look}.

       secure-afl check /srv/secure-afl

5. Start the node, and leave it running (`secure-afl.service` in your folder does it with systemd).

       secure-afl node /srv/secure-afl
"""

_TABLES = """\
   These are several studies: {names}. Each has a folder in /srv/secure-afl/studies/, with a `data.toml` that names its table
   and its data set. Put the table of each there, or change its `data.toml`.

"""
_FOLDER = Path("/srv/secure-afl")


def readme(kit: Kit) -> str:
    """The page for the kit's party."""
    project = parse(kit.project)
    client = kit.part is Part.CLIENT
    extras = ["flower", *(["tables"] if client else [])]
    if any('backend = "mask"' not in one.study for one in kit.studies):
        extras.append("he")
    several = len(kit.studies) > 1
    return _PAGE.format(
        name=kit.name,
        project=project.name,
        part=kit.part.value,
        parties=len(project.parties),
        holders=f" and {len(project.key_holders)} key holders" if project.key_holders else "",
        contact=project.contact,
        server=kit.superlink,
        extras=",".join(extras),
        slug=slug(kit.name),
        table=" --table rows.csv --data-set 'admissions until 2026-10'" if client else "",
        tables=_TABLES.format(names=", ".join(one.name for one in kit.studies)) if several and client else "",
        studies="the studies do" if several else "the study does",
        each=" on each" if several else "",
        approvals="\n".join(
            f"       secure-afl study approve {study_folder(_FOLDER, one.name)} --by 'Your name' --reason 'why you may take part'"
            for one in kit.studies
        ),
        coordinator=fingerprint("coordinator", kit.coordinator),
        look="; it names every cell of your table that does not fit" if client else "",
    )
