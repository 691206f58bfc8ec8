"""What a person sees of the stack: progress while services start, a table of their state, and where to look."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline_assets.local_stack.stack import State

WORKING = ("waiting", "starting", "stopping")
COLOURS = {"running": "green", "ready": "green", "elsewhere": "cyan", "failed": "red", "dead": "red", "stopped": "dim"}


class Progress:
    """The services of one command with their states and how long each took; drawn anew several times a second."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.begun: dict[str, float] = {}
        self.states: dict[str, tuple[str, float]] = {}
        self.lock = Lock()

    def note(self, name: str, state: str) -> None:
        """Remember a new state; the clock of a service starts when it stops waiting."""
        now = monotonic()
        with self.lock:
            if state == "waiting" or name not in self.begun or self.states[name][0] == "waiting":
                self.begun[name] = now
            self.states[name] = (state, now)

    def __rich__(self) -> Table:
        """One line per service."""
        table = Table(title=self.title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        with self.lock:
            for name, (state, at) in self.states.items():
                end = monotonic() if state in WORKING else at
                seconds = "" if state in ("waiting", "elsewhere") else f"{end - self.begun[name]:.1f} s"
                shown = Spinner("dots", text=state) if state in WORKING else Text(state, style=COLOURS.get(state, ""))
                table.add_row(name, shown, seconds)
        return table


@contextmanager
def watching(title: str) -> Iterator[Callable[[str, str], None]]:
    """A live display of the services for the time of a command; yields the function that takes a new state.

    Where the output is no terminal, one line per change is printed instead.
    """
    console = Console()
    if not console.is_terminal:
        yield lambda name, state: None if state == "waiting" else console.print(f"{name}: {state}")
        return
    progress = Progress(title)
    with Live(progress, console=console, refresh_per_second=10):
        yield progress.note


def show_status(found: Sequence[State]) -> None:
    """Print a table of the services."""
    table = Table(box=None, header_style="bold")
    for heading in ("service", "state", "pid", "address", "memory"):
        table.add_column(heading, justify="right" if heading in ("pid", "memory") else "left")
    for each in found:
        pid = str(each.pid) if each.pid is not None else ""
        memory = f"{each.rss_mb:.0f} MB" if each.rss_mb is not None else ""
        table.add_row(each.name, Text(each.state, style=COLOURS.get(each.state, "")), pid, each.url, memory)
    Console().print(table)


def show_links(found: Sequence[State]) -> None:
    """Print the pages to open in a browser."""
    console = Console()
    for each in found:
        if each.is_page and each.state == "running":
            console.print(f"{each.name:<10} {each.url}", highlight=False)
