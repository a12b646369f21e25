"""The command line: parse, run, and turn every error of the user's into one line and exit code 2."""

import inspect
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pyro_vaes.commands import blocks, checking, completion, imputation, latent, posterior, sweep, training, using
from pyro_vaes.commands import reproducing as protocols
from pyro_vaes.commands.glossary import explain
from pyro_vaes.errors import FaultWarning, InputError

COMMANDS: dict[str, Callable[..., Any]] = {
    name.removeprefix("do_"): function
    for module in (training, protocols, using, latent, completion, blocks, posterior, checking, imputation, sweep)
    for name, function in vars(module).items()
    if name.startswith("do_")
}
DEFAULT = "t_vae"
RANKS = ("--devices", "--strategy", "--num_nodes", "--timeout")
# These take the arguments of their target as well.
WITH_TARGET = ("describe", "fit", "sweep")
TRUST = "execute the file of code that the run names, though this account has not trained with it (read it first)."


def parser(argv: Sequence[str]) -> ArgumentParser:
    """Build the parser; the arguments of a target are known only once the target is."""
    top = ArgumentParser(
        prog="pyro-vaes", description="Clean data out of dirty data without labels.", exit_on_error=False
    )
    subcommands = top.add_subcommands(dest="command")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        sub = ArgumentParser(description=summary, exit_on_error=False)
        sub.add_function_arguments(command, as_positional=True, as_group=False)
        if {"run", "start"} & set(inspect.signature(command).parameters):
            sub.add_argument("--trust", action="store_true", help=TRUST)
        target = _target(argv) if name in WITH_TARGET and argv and argv[0] == name else None
        if target is not None:
            try:
                sub.add_function_arguments(target, skip={"data_dim"}, as_group=False)
                explain(sub._actions)
            except ValueError as error:
                raise InputError(f"{argv[1]}: its arguments cannot become options: {error}") from None
        subcommands.add_subcommand(name, sub, help=summary)
    return top


def _target(argv: Sequence[str]) -> Callable[..., Any] | None:
    """The function that the first word after the command names, if it is no option."""
    if len(argv) < 2 or argv[1].startswith("-"):
        return None
    from pyro_vaes.inference.run import target_function

    return target_function(argv[1])


def rewrite(argv: Sequence[str]) -> list[str]:
    """Let ``fit ... --resume`` mean ``resume RUN``, and ``fit`` without a target train the variant that tunes itself.

    The run is named by ``--resume RUN`` or ``--out RUN``; how many devices go on with it may be said anew.

    >>> rewrite(["fit", "--resume", "runs/x"]), rewrite(["fit", "t_vae", "--out=runs/x", "--resume"])
    (['resume', 'runs/x'], ['resume', 'runs/x'])
    >>> rewrite(["fit", "--resume", "runs/x", "--devices", "2"])
    ['resume', 'runs/x', '--devices', '2']
    >>> rewrite(["fit", "--data", "faces.npy"])
    ['fit', 't_vae', '--data', 'faces.npy']
    >>> rewrite(["fit", "vae", "--latent-dim=5"])
    ['fit', 'vae', '--latent_dim=5']
    """
    argv = [_underscored(word) for word in argv]
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if not words or words[0] != "fit":
        return list(argv)
    if "--resume" not in words:
        has_target = len(words) > 1 and (not words[1].startswith("-") or words[1] in ("-h", "--help"))
        return list(argv) if has_target else ["fit", DEFAULT, *argv[1:]]
    for option in ("--resume", "--out"):
        following = words[words.index(option) + 1 :][:1] if option in words else []
        if following and not following[0].startswith("-"):
            return ["resume", following[0], *_kept(words, RANKS), *(["--trust"] if "--trust" in words else [])]
    raise InputError("--resume needs the run folder: fit --resume RUN")


def _kept(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Of the words of a command, those of some options, each with its value."""
    return [part for i, word in enumerate(words) if word in options for part in words[i : i + 2]]


def _underscored(word: str) -> str:
    """Options are the arguments' names; a hyphen in one is as good as an underscore."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; give the exit code: 0, 1 for a diverged run, 2 for bad input, 128 + n for signal n."""
    # OpenMP's threads spin while they wait: by default so long that on a busy machine everything stands still, while
    # with OMP_WAIT_POLICY=PASSIVE a small step takes half as long again. To be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    argv = list(sys.argv[1:] if argv is None else argv)
    # A name that the terminal's encoding lacks is shown in another way, and ends no command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        argv = rewrite(argv)
        arguments = _parse(argv)
        given = vars(arguments[arguments.command])
        with _ended_by_term(), _faults_in_a_line(), _consenting(given.pop("trust", False)):
            code = COMMANDS[arguments.command](**given)
        return int(code or 0)
    except InputError as error:
        _warn(str(error))
        return 2
    except KeyboardInterrupt as stop:
        _warn("stopped")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except MemoryError as error:
        _warn(f"out of memory: {str(error) or 'take fewer data, draws or chunks at a time'}")
        return 2
    except RuntimeError as error:
        if type(error).__name__ == "RankLost":  # known without its module, which needs torch
            _warn(str(error))
            return 1
        # What torch raises on a CPU is no error of its own kind.
        if not re.search("not enough memory|out of memory|can't allocate memory", str(error)):
            raise
        _warn("out of memory: take fewer data, draws or chunks at a time")
        return 2
    except BrokenPipeError:
        # Whoever read our output has gone; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ArithmeticError as error:
        _warn(str(error))
        return 1
    except OSError as error:
        _warn(f"{error.filename or 'output'}: {error.strerror or error}")
        return 2


def _consenting(given: bool) -> AbstractContextManager[None]:
    if not given:  # the command line starts without torch
        return nullcontext()
    from pyro_vaes.inference.trust import consenting

    return consenting(True)


@contextmanager
def _ended_by_term() -> Iterator[None]:
    """Let SIGTERM unwind a command as Ctrl-C does, so that no half-written file stays; training has its own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


LONGEST = 2000  # characters of an error: what is wrong and what is allowed fit in, a file's content does not


@contextmanager
def _faults_in_a_line() -> Iterator[None]:
    """Print what has gone wrong, and what is done instead, as errors are printed; other warnings stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", FaultWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, FaultWarning):
                _warn(str(message))
            else:
                usual(message, category, *where, **options)

        warnings.showwarning = show
        yield


def _warn(message: str) -> None:
    """Say it in one line, in which a name from somebody else's file can neither hide nor colour what follows."""
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-280:]}"
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)
    print(f"pyro-vaes: {plain}", file=sys.stderr)


def _parse(argv: list[str]) -> Namespace:
    from jsonargparse import ArgumentError

    if not argv:
        argv = ["--help"]
    if argv[0] not in COMMANDS and not argv[0].startswith("-"):
        from pyro_vaes.errors import unknown

        raise unknown("command", argv[0], list(COMMANDS))
    try:
        return parser(argv).parse_args(argv)
    except ArgumentError as error:
        raise InputError(_plainly(" ".join(str(error).split()))) from None


def _plainly(message: str) -> str:
    """Say what an option may be where the parser lists all that it has tried.

    >>> _plainly(
    ...     'Parser key "rows": Does not validate against any of the Union subtypes Subtypes: '
    ...     "[<class 'int'>, <class 'NoneType'>] Errors: - Expected a <class 'int'> Given value type: <class 'str'> "
    ...     "Given value: nan"
    ... )
    'rows is nan: it must be int or null'
    """
    found = re.match(r'Parser key "(\w+)": Does not validate .*? Subtypes: \[([^\]]*)\].* Given value: (.*)$', message)
    kinds = re.findall(r"<class '(\w+)'>", found[2]) if found else []
    if not found or len(kinds) != found[2].count(",") + 1:
        return message
    allowed = " or ".join("null" if kind == "NoneType" else kind for kind in kinds)
    return f"{found[1]} is {found[3]}: it must be {allowed}"


if __name__ == "__main__":
    sys.exit(main())
