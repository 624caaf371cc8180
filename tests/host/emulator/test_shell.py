"""The phone's shell and files: what runs, and what cannot be left."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from crowdlearn_host.emulator.commands.toybox import COMMANDS
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.shell.shell import Io, Shell, no_input, run
from crowdlearn_host.emulator.shell.syntax import ShellSyntaxError, parse
from hypothesis import given
from hypothesis import strategies as st


def shell_run(root: Path, command: str) -> tuple[str, str, int]:
    async def body() -> tuple[str, str, int]:
        out, err, jobs = bytearray(), bytearray(), []

        async def write(data: bytes) -> None:
            out.extend(data)

        async def complain(data: bytes) -> None:
            err.extend(data)

        def spawn(work: Awaitable[int]) -> None:
            jobs.append(asyncio.ensure_future(work))

        code = await run(Shell(Filesystem(root), COMMANDS, spawn), command, Io(no_input, write, complain))
        await asyncio.gather(*jobs)
        return out.decode(), err.decode(), code

    return asyncio.run(body())


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo a  'b  c' \"d $HOME\"", "a b  c d /data/local/tmp\n"),
        ("x=1; echo $x${x}2 '$x' \"$x\" \\$x", "112 $x 1 $x\n"),
        ("true && echo yes || echo no; false && echo yes || echo no", "yes\nno\n"),
        ("(cd /data; pwd); pwd", "/data\n/\n"),
        ("echo one two | wc -w", "2\n"),
        ("! false; echo $?", "0\n"),
        ("cd /data/local/tmp; echo hi >f; cat <f; echo more >>f; cat f | wc -l", "hi\n2\n"),
        ("cd /data/local/tmp; cat missing 2>e; wc -l e", "1\n"),
        ("cat /missing 2>&1 | grep -c missing", "1\n"),
        ("cd /data/local/tmp; touch b1 b2 c; echo b* '*' \"b*\" z*", "b1 b2 * b* z*\n"),
        ("cd /data/local/tmp; mkdir -p d/e; touch d/e/f; echo */e/*", "d/e/f\n"),
        ('echo $(echo a b) "$(echo a  b)"', "a b a b\n"),
        ("[ -d /data ] && [ ! -e /x ] && test 2 -gt 1 && echo ok", "ok\n"),
        ("cd /data/local/tmp; echo x >a; cp a b; mv b c; ln -s c l; cat l; rm -f a c; ls", "x\nl\n"),
        ("echo a # comment", "a\n"),
        ("printf x; echo $?", "127\n"),
        ("(exit 4); echo $?", "4\n"),
        ("exit 5; echo never", ""),
    ],
)
def test_commands_do_what_a_shell_does(tmp_path: Path, command: str, output: str) -> None:
    assert shell_run(tmp_path, command)[0] == output


def test_a_job_in_the_background_does_not_hold_up_the_shell(tmp_path: Path) -> None:
    output, _, code = shell_run(tmp_path, "(sleep 0.01; echo late >/data/local/tmp/f) & echo first")
    assert (output, code) == ("first\n", 0)
    assert (tmp_path / "data/local/tmp/f").read_text() == "late\n"


@pytest.mark.parametrize("command", ["echo 'open", "a |", "( b", "c && ; d", "> ", "$(e", "e &&", "${x:-y}"])
def test_what_cannot_be_parsed_is_refused(tmp_path: Path, command: str) -> None:
    output, error, code = shell_run(tmp_path, command)
    assert (output, code) == ("", 2)
    assert error.startswith("sh: syntax error")


def test_nesting_is_bounded() -> None:
    for text in ("$(" * 40 + ")" * 40, "(" * 5000, "echo " + "$(" * 5000):
        with pytest.raises(ShellSyntaxError):
            parse(text)


@given(st.text(alphabet="ab $(){}'\"\\|&;<>!#=*?2\n", max_size=60))
def test_parsing_anything_ends(text: str) -> None:
    try:
        parse(text)
    except ShellSyntaxError:
        return


@pytest.mark.parametrize(
    "path",
    ["/data/local/tmp/../../../../../etc/hostname", "../../../etc/hostname", "/etc/hostname", "link", "deep"],
)
def test_no_path_leads_out_of_the_phone(tmp_path: Path, path: str) -> None:
    secret = tmp_path / "etc"
    secret.mkdir()
    (secret / "hostname").write_text("secret")
    root = tmp_path / "phone"
    files = Filesystem(root)
    home = root / "data/local/tmp"
    (home / "link").symlink_to(secret / "hostname")
    (home / "up").symlink_to("../../../..")
    (home / "deep").symlink_to("up/etc/hostname")
    output, error, code = shell_run(root, f"cd /data/local/tmp; cat {path}")
    assert (output, code) == ("", 1)
    assert "No such file" in error
    for command in (f"echo x >{path}", f"cp /data/local/tmp/source {path}", f"touch {path}"):
        shell_run(root, f"cd /data/local/tmp; echo y >source; {command}")
    shell_run(root, f"cd /data/local/tmp; rm -rf {path} up/etc")
    assert (secret / "hostname").read_text() == "secret"
    assert files.names("/") == ["data", "sdcard"]


@given(
    st.lists(st.sampled_from(["..", ".", "a", "link", "abs", "up", "", "data", "local", "tmp"]), max_size=12)
)
def test_every_path_resolves_inside(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "resolved"
    files = Filesystem(root)
    home = root / "data/local/tmp"
    if not (home / "link").is_symlink():
        (home / "link").symlink_to("../..")
        (home / "abs").symlink_to("/data/local")
        (home / "up").symlink_to("../../../../../..")
    real = files.real("/".join(parts), "/data/local/tmp")
    assert real == root or real.resolve().is_relative_to(root.resolve())


@pytest.mark.parametrize(
    "command", ["touch /x", "mkdir /data/x", "rm -rf /data", "echo >/data/local/x", "rm -r /"]
)
def test_only_the_temporary_folder_can_be_changed(tmp_path: Path, command: str) -> None:
    _, error, code = shell_run(tmp_path, command)
    assert code == 1
    assert "denied" in error or "Read-only" in error


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    _, error, _ = shell_run(tmp_path, "cd /data/local/tmp; ln -s a b; ln -s b a; cat a")
    assert "Too many levels of symbolic links" in error


@pytest.mark.parametrize("command", ["cat a\0b", "echo >$\0x", "ls \0", "cd /data/local/tmp; touch \0"])
def test_a_name_with_a_nul_is_refused(tmp_path: Path, command: str) -> None:
    _, error, code = shell_run(tmp_path, command)
    assert code == 1
    assert "Invalid argument" in error
