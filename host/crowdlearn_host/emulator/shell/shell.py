"""The phone's shell: runs syntax trees with commands that see nothing but the phone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from crowdlearn_host.emulator.hardware.filesystem import TEMPORARY, Filesystem, write_all
from crowdlearn_host.emulator.shell.arithmetic import ExpressionError, evaluate
from crowdlearn_host.emulator.shell.globs import escaped, globbed
from crowdlearn_host.emulator.shell.syntax import (
    MAX_COMMAND,
    NOT_FOUND,
    SYNTAX_ERROR,
    ShellSyntaxError,
    parse,
)
from crowdlearn_host.emulator.shell.tree import (
    AndOr,
    Arithmetic,
    Part,
    Pipeline,
    Redirect,
    Sequence,
    Simple,
    Subshell,
    Substitution,
    Text,
    Word,
)

MAX_PIPE = 1 << 26
PROGRAMS = ("", "/bin", "/system/bin", "/system/xbin", "/vendor/bin")
"""Folders in which the phone's commands are; "" stands for a name without a folder."""
PROGRAM_FILES = "/"
"""The command for what is named by its path: a program in the phone's files."""
PROMPT = b"$ "

Write = Callable[[bytes], Awaitable[None]]
Read = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class Io:
    """Standard streams of a command: `read` gives b"" at the end."""

    read: Read
    write: Write
    complain: Write


@dataclass
class Session:
    """The state that a shell shares with its subshells: whether it has ended, and with it what jobs could
    write to.
    """

    finished: bool = False


@dataclass
class Shell:
    """The state of one shell: variables, working folder, last exit code, jobs in the background."""

    files: Filesystem
    commands: Mapping[str, "CommandFunction"]
    spawn_job: Callable[[Awaitable[int]], None]
    variables: dict[str, str] = field(default_factory=lambda: {"HOME": TEMPORARY, "TMPDIR": TEMPORARY})
    cwd: str = "/"
    exit_code: int = 0
    last_job: int | None = None
    substituted: int = 0
    """Exit code of the last command substitution."""
    session: Session = field(default_factory=Session)
    started: Callable[[int], None] = lambda pid: None

    def copy(self) -> "Shell":
        """Return a subshell: changes in it stay in it."""
        return replace(self, variables=dict(self.variables))


CommandFunction = Callable[[Shell, list[str], Io], Awaitable[int]]


class Exit(Exception):
    """The command `exit`: leave the shell with a code."""

    def __init__(self, code: int) -> None:
        self.code = code


async def no_input() -> bytes:
    """Read standard input that is at its end."""
    return b""


async def discard(data: bytes) -> None:
    """Drop standard output."""


async def run(shell: Shell, command: str, io: Io) -> int:
    """Run a command line to its end and return its exit code; jobs in the background go on."""
    try:
        sequence = parse(command)
    except ShellSyntaxError as error:
        await _complain(error, io)
        return error.code
    try:
        return await _run_isolated(shell, sequence, io)
    finally:
        shell.session.finished = True


async def _complain(error: ShellSyntaxError, io: Io) -> None:
    kind = "" if error.code == NOT_FOUND else "syntax error: "
    await io.complain(f"sh: {kind}{error}\n".encode(errors="surrogateescape"))


async def run_interactive(shell: Shell, io: Io, prompt: bytes) -> int:
    """Run lines as they arrive, until `exit` or the end of the input."""
    pending = b""
    data = b"\n"
    try:
        while data:
            await io.write(prompt)
            data = await io.read()
            *lines, pending = (pending + data.replace(b"\r", b"\n")).split(b"\n")
            for line in lines if data else [pending]:
                await _run_line(shell, line, io)
            if len(pending) > MAX_COMMAND:
                await io.complain(b"sh: line too long\n")
                return SYNTAX_ERROR
    except Exit as leave:
        return leave.code
    finally:
        shell.session.finished = True
    return shell.exit_code


async def _run_line(shell: Shell, line: bytes, io: Io) -> None:
    try:
        await _run_sequence(shell, parse(line.decode(errors="surrogateescape")), io)
    except ShellSyntaxError as error:
        shell.exit_code = error.code
        await _complain(error, io)


async def _run_isolated(shell: Shell, sequence: Sequence, io: Io) -> int:
    try:
        return await _run_sequence(shell, sequence, io)
    except Exit as leave:
        return leave.code


async def _run_sequence(shell: Shell, sequence: Sequence, io: Io) -> int:
    for item in sequence:
        if item.background:
            await _start_job(shell, item, io)
        else:
            shell.exit_code = await _run_and_or(shell, item, io)
    return shell.exit_code


async def _start_job(shell: Shell, item: AndOr, io: Io) -> None:
    # The job is under way, and `$!` known, when its first program has a process or it is over without one.
    pid: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    job = shell.copy()

    def started(number: int) -> None:
        if not pid.done():
            pid.set_result(number)

    job.started = started

    async def write(data: bytes) -> None:
        if not shell.session.finished:
            await io.write(data)

    async def complain(data: bytes) -> None:
        if not shell.session.finished:
            await io.complain(data)

    async def body() -> int:
        try:
            return await _run_isolated(job, (replace(item, background=False),), Io(no_input, write, complain))
        finally:
            if not pid.done():
                pid.set_result(None)

    shell.spawn_job(body())
    shell.last_job = await pid
    shell.exit_code = 0


async def _run_and_or(shell: Shell, item: AndOr, io: Io) -> int:
    code = await _run_pipeline(shell, item.first, io)
    for operator, pipeline in item.rest:
        shell.exit_code = code
        if (code == 0) == (operator == "&&"):
            code = await _run_pipeline(shell, pipeline, io)
    return code


async def _run_pipeline(shell: Shell, pipeline: Pipeline, io: Io) -> int:
    code = 0
    read = io.read
    for command in pipeline.commands[:-1]:
        collected = _Collector()
        await _run_command(shell.copy(), command, Io(read, collected.write, io.complain))
        read = collected.read
    last = pipeline.commands[-1]
    inner = shell if len(pipeline.commands) == 1 else shell.copy()
    code = await _run_command(inner, last, replace(io, read=read))
    return int(code == 0) if pipeline.negated else code


async def _run_command(shell: Shell, command: Simple | Subshell, io: Io) -> int:
    with ExitStack() as stack:
        outside = io
        try:
            io = await _redirect(shell, command.redirects, io, stack)
        except OSError as error:
            text = f"sh: {error.filename}: {error.strerror}\n"
            await outside.complain(text.encode(errors="surrogateescape"))
            return 1
        except ExpressionError as error:
            await outside.complain(f"sh: {error}\n".encode(errors="surrogateescape"))
            return 1
        if isinstance(command, Subshell):
            return await _run_isolated(shell.copy(), command.body, io)
        try:
            return await _run_simple(shell, command, io)
        except ExpressionError as error:
            await io.complain(f"sh: {error}\n".encode(errors="surrogateescape"))
            return 1


async def _run_simple(shell: Shell, command: Simple, io: Io) -> int:
    shell.substituted = 0
    words = [text for word in command.words for text in await _expand(shell, word, io)]
    before = dict(shell.variables)
    for name, word in command.assignments:
        shell.variables[name] = "".join(await _expand(shell, word, io, split=False))
    if not words:
        return shell.substituted
    try:
        return await run_words(shell, words, io)
    finally:
        if command.assignments:  # they were for this command alone
            for name, _ in command.assignments:
                shell.variables.pop(name, None)
                if name in before:
                    shell.variables[name] = before[name]


async def run_words(shell: Shell, words: list[str], io: Io) -> int:
    """Run one command given as words."""
    folder, _, name = words[0].rpartition("/")
    function = shell.commands.get(name) if folder in PROGRAMS and words[0] != f"/{name}" else None
    if function is None and "/" in words[0]:
        function = shell.commands.get(PROGRAM_FILES)
    if function is None:
        await io.complain(f"sh: {words[0]}: inaccessible or not found\n".encode(errors="surrogateescape"))
        return NOT_FOUND
    try:
        return await function(shell, words, io)
    except OSError as error:
        text = f"{words[0]}: {error.filename or ''}: {error.strerror or error}\n"
        await io.complain(text.encode(errors="surrogateescape"))
        return getattr(error, "exit_code", 1)


async def _redirect(shell: Shell, redirects: tuple[Redirect, ...], io: Io, stack: ExitStack) -> Io:
    for redirect in redirects:
        if redirect.operator == "2>&1":
            io = replace(io, complain=io.write)
            continue
        if redirect.operator in ("1>&2", ">&2"):
            io = replace(io, write=io.complain)
            continue
        path = "".join(await _expand(shell, redirect.target, io, split=False))
        mode = {"<": "rb", ">": "wb", "1>": "wb", "2>": "wb", ">>": "ab", "2>>": "ab"}[redirect.operator]
        if mode == "rb" and (content := shell.files.generate(path, shell.cwd)) is not None:
            io = replace(io, read=_Collector(content).read)
            continue
        file = stack.enter_context(shell.files.open(path, mode, shell.cwd))
        if mode == "rb":
            io = replace(io, read=_reader(file))
        elif redirect.operator.startswith("2"):
            io = replace(io, complain=_writer(file))
        else:
            io = replace(io, write=_writer(file))
    return io


async def _expand(shell: Shell, word: Word, io: Io, *, split: bool = True) -> list[str]:
    words: list[str] = []
    text = ""
    pattern = ""
    started = False
    for part in word:
        if isinstance(part, Text):
            text += part.text
            pattern += escaped(part.text) if part.quoted else part.text
            started = True
            continue
        value = await _value(shell, part, io)
        if part.quoted or not split:
            text += value
            pattern += escaped(value)
            started = started or part.quoted
            continue
        pieces = value.split()
        for index, piece in enumerate(pieces):
            if index or value[:1].isspace():
                words += globbed(shell.files, shell.cwd, text, pattern) if started else []
                text = pattern = ""
            text += piece
            pattern += piece
            started = True
        if pieces and value[-1:].isspace():
            words += globbed(shell.files, shell.cwd, text, pattern)
            text = pattern = ""
            started = False
    if not split:
        return [text]
    return words + (globbed(shell.files, shell.cwd, text, pattern) if started else [])


async def _value(shell: Shell, part: Part, io: Io) -> str:
    """Return what a part of a word stands for. Raises ExpressionError."""
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Substitution):
        collected = _Collector()
        shell.substituted = await _run_isolated(shell.copy(), part.body, replace(io, write=collected.write))
        return bytes(collected.content).decode(errors="surrogateescape").rstrip("\n")
    if isinstance(part, Arithmetic):
        text = "".join([await _value(shell, inner, io) for inner in part.expression])
        return str(evaluate(text, shell.variables))
    match part.name:
        case "0":
            return "sh"
        case "#":
            return "0"
        case "?":
            return str(shell.exit_code)
        case "!":
            return "" if shell.last_job is None else str(shell.last_job)
        case "$":
            return "1"
    return shell.variables.get(part.name, "")


class _Collector:
    """A pipe: what one command writes and the next reads."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    async def write(self, data: bytes) -> None:
        if len(self.content) + len(data) > MAX_PIPE:
            raise OSError(27, f"more than {MAX_PIPE} bytes in a pipe", "pipe")
        self.content += data

    async def read(self) -> bytes:
        content, self.content = bytes(self.content), bytearray()
        return content


def _reader(file: BinaryIO) -> Read:
    async def read() -> bytes:
        return file.read(1 << 18)

    return read


def _writer(file: BinaryIO) -> Write:
    async def write(data: bytes) -> None:
        write_all(file, data)

    return write
