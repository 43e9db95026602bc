"""Explore all that a lying server and its colluders can make our clients do, and what they learn from it.

    python tests/long/explore.py --clients 4 --rounds 1 --colluders 1

Global states are one node of every honest site (`sites.py` runs the real code for them); what the adversary has is
the union of what left the sites, so it only grows. In every state the rules of `knowledge.py` are checked.
States that differ by names of honest clients only are one. Two orders:

any      every move of every site in every state, breadth first.
phases   (default) sites move by turns: session, then phase. That loses nothing: what a message needs leaves clients
         at earlier turns only, sites share nothing but the adversary, and what it has never shrinks. A move is
         left out if another that can be made leads to a site that can do all that this one's can (`Search.covers`,
         computed on the moves that the real code allows).
random   walks by turns, each site with one of its moves drawn at random: not exhaustive, for larger cohorts.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby, permutations, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from long.knowledge import RULES, Adversary, Violation
from long.sites import WEAK, Bounds, Model, Move, Rank, Said
from secure_afl.protocol.session.parameters import Profile

State = tuple[int, ...]
Watch = Callable[[str], None]


@dataclass
class Outcome:
    """What was explored. violation, trace: the first rule that was broken, and how; read: whether the bytes that the
    clients sent open to what the algebra says, in that state.
    """

    bounds: Bounds
    order: str
    states: int = 0
    transitions: int = 0
    nodes: int = 0
    calls: int = 0
    refused: int = 0
    views: int = 0
    opened: int = 0
    seconds: float = 0.0
    complete: bool = True
    violation: Violation | None = None
    trace: list[str] = field(default_factory=list)
    read: bool | None = None

    def summary(self) -> dict[str, object]:
        bounds = {key: value for key, value in asdict(self.bounds).items() if key != "profile"}
        rest = {key: value for key, value in asdict(self).items() if key != "bounds"}
        return {**bounds, "profile": self.bounds.profile.value, **rest}


class Search:
    """One exploration."""

    def __init__(self, bounds: Bounds, rules: str = "".join(RULES), watch: Watch = lambda text: None) -> None:
        self.model = Model(bounds)
        self.adversary = Adversary(self.model, rules)
        self._watch = watch
        self._covers: dict[tuple[int, int, Rank], bool] = {}
        self._options: dict[tuple[int, Rank, tuple[int, ...]], tuple[int, ...]] = {}
        self._sorting: dict[tuple[int, tuple[int, ...]], list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
        self.outcome = Outcome(bounds, "")

    def run(self, order: str = "phases", depth: int | None = None) -> Outcome:
        """Explore; ends at the first state that breaks a rule. depth: the most levels to go down."""
        started, out = time.process_time(), self.outcome
        out.order = order
        levels = {"any": self._any, "phases": self._phases, "random": self._random}[order]()
        for number, states in enumerate(levels):
            bad = self._check(states)
            out.nodes, out.calls, out.refused = len(self.model.nodes), self.model.calls, self.model.refused
            out.views, out.opened = len(self.adversary.views), self.adversary.opened_sums
            out.seconds = round(time.process_time() - started, 1)
            self._watch(
                f"level {number}: {out.states} states, {out.transitions} transitions, {out.nodes} nodes"
            )
            if bad:
                break
            if depth is not None and number >= depth:
                out.complete = False
                break
        return out

    def held(self, state: State) -> int:
        """What the adversary has."""
        held = 0
        for name in state:
            held |= self.model.nodes[name].facts
        return held

    def _check(self, states: Iterable[State]) -> bool:
        for state in states:
            held = self.held(state)
            if broken := self.adversary.violations(held):
                out = self.outcome
                out.violation, out.trace, out.complete = broken[0], self.trace(state), False
                out.read = all(self.adversary.read(held).values())
                return True
        return False

    # ---- every order -----------------------------------------------------------------------------

    def _any(self) -> Iterator[set[State]]:
        out = self.outcome
        level = {self.canonical(self.model.roots)}
        seen = set(level)
        out.states = 1
        yield level
        while level:
            fresh = set()
            for state in level:
                held = self.held(state)
                for i, name in enumerate(state):
                    for target in {m.target for m in self.model.moves(name) if not m.need & ~held}:
                        out.transitions += 1
                        after = self.canonical((*state[:i], target, *state[i + 1 :]))
                        if after not in seen:
                            seen.add(after)
                            fresh.add(after)
            level = fresh
            out.states += len(level)
            yield level

    seed = 107  # of random walks: one that finds the attack in `ATTACKS` soon

    def _random(self, walks: int = 20_000) -> Iterator[set[State]]:
        """Walks by turns: a site takes one of the messages that matter and can be sent to it."""
        draws, out, seen = random.Random(self.seed), self.outcome, set[State]()
        ranks = self.model.ranks()
        for _ in range(walks):
            state = self.model.roots
            for rank in ranks:
                held = self.held(state)
                after = [draws.choice(self.options(name, rank, held)) for name in state]
                state = tuple(after)
                out.transitions += len(state)
            seen.add(state)
            out.states = len(seen)
            yield {state}
        out.complete = False

    # ---- by turns --------------------------------------------------------------------------------

    def _phases(self) -> Iterator[set[State]]:
        out, consistent = self.outcome, self.model.bounds.consistent
        level = {self.model.roots}
        out.states = 1
        for rank in self.model.ranks():
            sweep = self._said_to_all if consistent else self._lied
            level = {self.canonical(state) for state in sweep(level, rank)}
            out.states += len(level)
            yield level

    def _lied(self, level: set[State], rank: Rank) -> set[State]:
        for i in self.model.bounds.honest:
            after = set()
            for state in level:
                for target in self.options(state[i], rank, self.held(state)):
                    self.outcome.transitions += 1
                    after.add((*state[:i], target, *state[i + 1 :]))
            level = {self.canonical(state, i + 1) for state in after}
        return level

    def _said_to_all(self, level: set[State], rank: Rank) -> set[State]:
        """One message for all; each site takes it, or has dropped out."""
        after: set[State] = set(level)
        for state in level:
            held = self.held(state)
            moves = [
                {_content(m.said, i): m.target for m in self.model.moves(name) if self._now(m, rank, held)}
                for i, name in enumerate(state)
            ]
            for content in {one for each in moves for one in each}:
                reached = {state}
                for i, each in enumerate(moves):
                    if content in each:
                        reached |= {(*one[:i], each[content], *one[i + 1 :]) for one in reached}
                self.outcome.transitions += len(reached)
                after |= reached
        return after

    @staticmethod
    def _now(move: Move, rank: Rank, held: int) -> bool:
        return move.rank == rank and not move.need & ~held

    def options(self, name: int, rank: Rank, held: int) -> tuple[int, ...]:
        """The nodes that a site may be in after this turn, as far as they matter."""
        targets = tuple(sorted({m.target for m in self.model.moves(name) if self._now(m, rank, held)}))
        if not targets:
            return (name,)
        key = name, rank, targets
        if key not in self._options:
            best: list[int] = []
            for target in (*targets, name):
                if not any(self.covers(target, one, rank) for one in best):
                    best = [one for one in best if not self.covers(one, target, rank)] + [target]
            self._options[key] = tuple(best)
        return self._options[key]

    def covers(self, less: int, more: int, after: Rank) -> bool:
        """Whether `more` gave out all that `less` did and, after this turn, can do all that it can, with no more."""
        if less == more:
            return True
        key = less, more, after
        if key not in self._covers:
            self._covers[key] = True  # while it is being found out: the greatest such relation
            nodes = self.model.nodes
            self._covers[key] = not nodes[less].facts & ~nodes[more].facts and all(
                self.covers(move.target, more, move.rank)
                or any(
                    answer.rank == move.rank
                    and not answer.need & ~move.need
                    and self.covers(move.target, answer.target, move.rank)
                    for answer in self.model.moves(more)
                )
                for move in self.model.moves(less)
                if move.rank > after
            )
        return self._covers[key]

    # ---- names and words -------------------------------------------------------------------------

    def canonical(self, state: State, moved: int = 0) -> State:
        """One of the states that differ by the names of honest clients, the same for all of them.

        moved: so many first sites have made their moves of a turn; only names among these, and among the others, are changed.

        It is the least of those whose sites are sorted by colour (`Model.likeness`), the moved ones for themselves. A renaming
        changes no node's colour. So whichever of these states is given, the same ones are compared.
        """
        image = self.model.image
        colours = [self.model.likeness(name)[0] for name in state]
        ranks = {colour: rank for rank, colour in enumerate(sorted(set(colours)))}
        least: list[int] = []
        for renamed, back in self._sorted(moved, tuple(ranks[colour] for colour in colours)):
            for at, site in enumerate(back):
                name = image(state[site], renamed)
                if not least or name < least[at]:
                    least[at:] = [name, *(image(state[one], renamed) for one in back[at + 1 :])]
                    break
                if name > least[at]:
                    break
        return tuple(least)

    def _sorted(self, moved: int, colours: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The renamings that sort sites of these colours, and which site each puts at each place."""
        key = moved, colours
        if key not in self._sorting:
            sites = range(len(colours))
            order = sorted(sites, key=lambda one: (one >= moved, colours[one]))
            equal = [tuple(some) for _, some in groupby(order, lambda one: (one >= moved, colours[one]))]
            found = []
            for chosen in product(*(permutations(some) for some in equal)):
                back = tuple(chain.from_iterable(chosen))
                renamed = tuple(back.index(one) for one in sites)
                found.append(((*renamed, *self.model.bounds.liars), back))
            self._sorting[key] = found
        return self._sorting[key]

    def trace(self, state: State) -> list[str]:
        """The messages that lead there, in the order of their turns."""
        lines = []
        for index, name in enumerate(state):
            node = self.model.nodes[name]
            while node.said is not None:
                before = self.model.nodes[node.parent]
                gained = [_fact(fact) for fact in self.model.facts(node.facts & ~before.facts)]
                rank = self.model.rank(before.site, node.said)
                lines.append((rank, index, f"to site {index}: {_words(node.said)}{''.join(gained)}"))
                node = before
        return [text for _, _, text in sorted(lines)]


def _content(said: Said, index: int) -> Said:
    """What a server that says the same to everybody says; bundles are each client's own."""
    if said[0] == "delivery":
        return "delivery", said[1], tuple(sorted({*said[2], index})), said[3]
    return said[:4] if said[0] == "consents" else said


def _words(said: Said) -> str:
    kind, s, *what = said
    where = f"session {s}"
    match kind:
        case "parameters":
            return f"invitation to {where}"
        case "directory":
            keys = ", ".join(f"{index}{'*' if variant else ''}" for index, variant in what[0])
            return f"{where}, keys of {{{keys}}}"
        case "delivery":
            return f"{where}, bundles of {_set(what[0])}"
        case "request":
            return f"{where}, round {what[0]}, participants {_set(what[1])}"
        case "survivors":
            return f"{where}, round {what[0]}, survivors {_set(what[1])}"
        case "answer":
            return f"{where}, round {what[0]}, another sum than theirs"
        case "roots":
            return f"{where}, round {what[0]}, survivors {_set(what[1])}, uploads {_variants(what[2])}"
        case "evidence":
            twist = " ".join(map(str, what[2]))
            return f"{where}, round {what[0]}, evidence with uploads {_variants(what[1])} {twist}".rstrip()
    return f"{where}, round {what[0]}, consents of {_set(what[1])}"


def _fact(fact: tuple[object, ...]) -> str:
    match fact:
        case ("upload", *_):
            return " → upload"
        case ("consent", *_):
            return " → consent"
        case ("accepted", *_):
            return " → accepts the sum"
        case ("share", _, _, _, owner, kind):
            return f" → {('seed', 'self')[int(str(kind))]} share of {owner}"
    return ""


def _variants(shown: Iterable[tuple[int, int]]) -> str:
    others = [f"{index}{'*' if variant == 1 else '?'}" for index, variant in shown]
    return f"as sent but {', '.join(others)}" if others else "as sent"


def _set(indices: Iterable[int]) -> str:
    return "{" + ", ".join(map(str, indices)) + "}"


ACTIVE = Bounds()
FIXED = replace(ACTIVE, honest_setup=True, equivocate=False)
SEMI = Bounds(profile=Profile.SEMI_HONEST, equivocate=False)
ATTACKS: dict[str, tuple[Bounds, str, str]] = {
    # With c < 2t − n no client's both seeds can be had, consents or not: 2t shares are more than n + c. What consents
    # add is that a sum is over t survivors; 7 clients is where we found a sum over too few without them.
    "consents": (
        replace(FIXED, weak="consents", clients=7, colluders=2, minimum_honest=3, equivocate=False),
        "b",
        "random",
    ),
    "threshold": (replace(FIXED, weak="threshold", colluders=1), "a", "phases"),
    "either-or": (replace(FIXED, weak="either-or"), "a", "phases"),
    "either-or, repeat": (replace(FIXED, weak="either-or"), "d", "phases"),
    "ledger": (replace(FIXED, weak="ledger", sessions=2, colluders=1), "c", "phases"),
    "minimum": (replace(SEMI, consistent=True, colluders=2, weak="minimum"), "b", "phases"),
    "related": (replace(FIXED, weak="related", rounds=2, related=True, colluders=1), "bc", "phases"),
    "self mask": (replace(FIXED, weak="self mask"), "b", "phases"),
    "roots": (replace(FIXED, weak="roots", colluders=1, replay=True), "g", "phases"),
    "semi-honest clients, lying server": (
        replace(SEMI, clients=5, colluders=1, honest_setup=True),
        "a",
        "phases",
    ),
}
"""Weakened variants, with the rules that each must be seen to break, and the order that shows it."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--colluders", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=1, help="sessions over the same data set")
    parser.add_argument("--profile", choices=[one.value for one in Profile], default="active")
    parser.add_argument("--server", choices=["lying", "consistent"], help="default: as the profile assumes")
    parser.add_argument("--related", action="store_true", help="all sums are marked same_survivors")
    parser.add_argument(
        "--one-key", action="store_true", help="colluders have one set of keys to show, not two"
    )
    parser.add_argument("--order", choices=["phases", "any", "random"], default="phases")
    parser.add_argument("--depth", type=int, help="the most levels to go down")
    parser.add_argument("--weak", choices=[*WEAK][1:], default="", help="take a defence out")
    parser.add_argument("--attacks", action="store_true", help="all weakened variants, and nothing else")
    parser.add_argument("--real-crypto", action="store_true", help="HPKE and Ed25519 are not replaced")
    parser.add_argument("--honest-setup", action="store_true", help="only survivors and consents may lie")
    parser.add_argument("--minimum-honest", type=int, default=2, help="of the clients' policy")
    parser.add_argument("--replay", action="store_true", help="clients make sums again, in place of tags")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    profile = Profile(args.profile)
    consistent = args.server == "consistent" if args.server else profile is Profile.SEMI_HONEST
    bounds = Bounds(
        args.clients,
        args.rounds,
        args.colluders,
        profile,
        args.sessions,
        args.related,
        not args.one_key,
        consistent,
        args.weak,
        args.real_crypto,
        args.honest_setup,
        args.minimum_honest,
        args.replay,
    )
    console = Console()
    one: tuple[Bounds, str, str] = (bounds, "".join(RULES), args.order)
    tasks = ATTACKS if args.attacks else {"": one}
    outcomes = [_shown(console, name, task, args.depth) for name, task in tasks.items()]
    if args.json:
        args.json.write_text(json.dumps([each.summary() for each in outcomes], indent=1) + "\n")
    safe = not (args.attacks or args.weak)
    sys.exit(any((each.violation is not None) is safe for each in outcomes))


def _shown(console: Console, name: str, task: tuple[Bounds, str, str], depth: int | None) -> Outcome:
    bounds, rules, order = task
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("exploring")
        search = Search(bounds, rules, lambda text: progress.update(bar, description=text))
        out = search.run(order, depth)
    console.print(f"{name or 'explored'}: {bounds}", highlight=False)
    console.print(
        f"{out.states} states, {out.transitions} transitions in order '{order}'"
        f"{'' if out.complete else ' (not to the end)'}; {out.nodes} states of sites from {out.calls} messages "
        f"to real clients, {out.refused} refused; {out.views} views, {out.opened} of which open a sum; "
        f"{out.seconds} s",
        highlight=False,
    )
    if out.violation:
        console.print(f"rule {out.violation.rule} ({RULES[out.violation.rule]}) broken: {out.violation.text}")
        for number, line in enumerate(out.trace, 1):
            console.print(f"  {number:2} {line}", highlight=False)
        console.print(f"the bytes open to these numbers: {out.read}")
    else:
        console.print("no rule is broken", highlight=False)
    return out


if __name__ == "__main__":
    main()
