"""The phone's shell and files: what runs, and what cannot be left."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from crowdlearn_host.emulator.commands.toybox import COMMANDS
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.shell.arithmetic import ExpressionError, evaluate
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
        ("cd /data/local/tmp; cat missing 2>e; wc -l e", "1 e\n"),
        ("cat /missing 2>&1 | grep -c missing", "1\n"),
        ("cd /data/local/tmp; touch b1 b2 c; echo b* '*' \"b*\" z*", "b1 b2 * b* z*\n"),
        ("cd /data/local/tmp; mkdir -p d/e; touch d/e/f; echo */e/*", "d/e/f\n"),
        ('echo $(echo a b) "$(echo a  b)"', "a b a b\n"),
        ("[ -d /data ] && [ ! -e /x ] && test 2 -gt 1 && echo ok", "ok\n"),
        ("cd /data/local/tmp; echo x >a; cp a b; mv b c; ln -s c l; cat l; rm -f a c; ls", "x\nl\n"),
        ("echo a # comment", "a\n"),
        ("awk x; echo $?", "127\n"),
        ("(exit 4); echo $?", "4\n"),
        ("exit 5; echo never", ""),
    ],
)
def test_commands_do_what_a_shell_does(tmp_path: Path, command: str, output: str) -> None:
    assert shell_run(tmp_path, command)[0] == output


IN_A_FOLDER = "cd /data/local/tmp; printf 'one\\ntwo\\nthree\\n' >f; printf 'a.b\\na+b\\nAxB' >g; "


@pytest.mark.parametrize(
    ("command", "output", "code"),
    [
        ("head -c 5 f", "one\nt", 0),
        ("head -c5 f; head -n1 f", "one\ntone\n", 0),
        ("head -2 f; head -n 0 f; head -c 0 f", "one\ntwo\n", 0),
        ("head -n 1 f g", "==> f <==\none\n\n==> g <==\na.b\n", 0),
        ("head -c x f", "", 1),
        ("head -z f", "", 1),
        ("head missing", "", 1),
        ("tail -c 4 f", "ree\n", 0),
        ("tail -n +2 f", "two\nthree\n", 0),
        ("tail -1 f; tail -n1 f", "three\nthree\n", 0),
        ("tail -f f", "", 1),
        ("printf '%s-%d|' a 1 b 2", "a-1|b-2|", 0),
        ("printf '%5.2f %-4s| %04x %o %c %%\\n' 3.14159 ab 255 8 xyz", " 3.14 ab  | 00ff 10 x %\n", 0),
        ("printf '\\x41\\102\\t%b' 'c\\td'", "AB\tc\td", 0),
        ("printf 'no arguments %s|%d\\n'", "no arguments |0\n", 0),
        ("printf '%d\\n' 0x10 010 abc; echo $?", "16\n8\n0\n1\n", 0),
        ("printf -- '-%s|' a; printf '-%s|' b", "-a|-b|", 0),
        ("printf --", "", 1),
        ("printf %q a", "", 1),
        ("printf %99999s a", "", 1),
        ("echo -n a; echo -e 'b\\tc'; echo -E 'd\\te'", "ab\tc\nd\\te\n", 0),
        ("echo $((1+2)) $(( 2 * (3 + 4) % 5 )) $((7/-2)) $((-7%2))", "3 4 -3 -1\n", 0),
        ('x=5; echo $((x+1)) $(($x*2)) $((y)) "$((x > 4 && !0))" $((1 ? 2 : 3))', "6 10 0 1 2\n", 0),
        ("echo $((2147483647 + 1)) $((1 << 4 | 1)) $((~0 ^ 5))", "-2147483648 17 -6\n", 0),
        ("echo $((1 / 0))", "", 1),
        ("echo $((1 +)) ", "", 1),
        ("echo $((x=1))", "", 1),
        ("echo $(echo $((1+2)))", "3\n", 0),
        ('echo `echo a` "`echo b \\`echo c\\``"', "a b c\n", 0),
        ('echo $1 $# "$@" $0 end', "0 sh end\n", 0),
        ("echo ~ ~/x a~ '~'", "/data/local/tmp /data/local/tmp/x a~ ~\n", 0),
        ("echo a\\\nb", "ab\n", 0),
        ("x=1; x=2 true; echo $x; x=3 echo $x; x=4; echo $x", "1\n1\n4\n", 0),
        ("x=$(false) || echo failed; x=$(exit 3); echo $?", "failed\n3\n", 0),
        ("exec echo a; echo never", "a\n", 0),
        ("nohup echo a; nohup", "a\n", 127),
        ("echo a & echo b", "a\nb\n", 0),
        ("grep a.b g; grep -c . g; grep -n '^two$' f; grep -F + g", "a.b\na+b\n3\n2:two\na+b\n", 0),
        ("grep 'a*' g", "", 2),
        ("grep -E 'a+b' g", "", 2),
        ("grep 'a\\.b' g; grep -i axb g; grep -v a g", "a.b\nAxB\nAxB\n", 0),
        ("grep o f g", "f:one\nf:two\n", 0),
        ("grep x missing", "", 2),
        ("wc f; wc -l f g; echo a | wc -c", "3 3 14 f\n3 f\n2 g\n5 total\n2\n", 0),
        ("basename /a/b.txt .txt; basename /; dirname /a/b c", "b\n/\n/a\n.\n", 0),
        ("basename", "", 1),
        ("date -d tomorrow", "", 1),
        ("id -u; id -un; id -g", "2000\nshell\n2000\n", 0),
        ("touch -t 200001010000 x; ls", "f\ng\n", 0),
        ("[ a -nt b ]", "", 2),
        ("test 1 -eq x", "", 2),
        ("[ ! x ]; echo $?; [ ! ]; echo $?", "1\n0\n", 0),
        ("./head f; /nowhere/head f", "", 127),
        ("/system/bin/head -n1 f", "one\n", 0),
        ("sha256sum -c f", "", 1),
        ("logcat -t 5", "", 127),
        ("if true; then echo a; fi", "", 127),
        ("for i in 1 2; do echo $i; done", "", 127),
        ("echo a; while true; do echo b; done", "", 127),
        ("{ echo a; }", "", 127),
        ("echo if then done", "if then done\n", 0),
        ("echo {a,b}", "", 2),
        ("echo '{a,b}' {a} {}", "{a,b} {a} {}\n", 0),
        ("echo a 3>h", "", 2),
        ("echo a &>h", "", 2),
        ("echo a;; echo b", "", 2),
        ("cat <<x\na\nx\n", "", 2),
        ("echo $'a'", "", 2),
        ("sleep 0.0m; sleep x", "", 1),
        ("export 1x=2", "", 1),
    ],
)
def test_a_command_is_right_or_fails(tmp_path: Path, command: str, output: str, code: int) -> None:
    found, error, exit_code = shell_run(tmp_path, IN_A_FOLDER + command)
    if code == 2 and "syntax" in error:
        assert (found, exit_code) == ("", 2)
    else:
        assert (found, exit_code) == (output, code), error
    assert bool(error) >= bool(code)


@pytest.mark.parametrize("command", ["if true; then touch x; fi", "touch x; for i in 1; do true; done"])
def test_nothing_of_a_line_that_is_not_understood_is_done(tmp_path: Path, command: str) -> None:
    _, error, code = shell_run(tmp_path, f"cd /data/local/tmp; {command}")
    assert code == 127
    assert "not found" in error
    assert not (tmp_path / "data/local/tmp/x").exists()


@given(st.text(alphabet="0123456789+-*/%()<>=!&|^~ x?:", max_size=40))
def test_any_arithmetic_has_a_value_or_is_refused(text: str) -> None:
    try:
        assert -(2**31) <= evaluate(text, {"x": "7"}) < 2**31
    except ExpressionError:
        return


def test_a_job_in_the_background_does_not_hold_up_the_shell(tmp_path: Path) -> None:
    output, _, code = shell_run(tmp_path, "(sleep 0.01; echo late >/data/local/tmp/f) & echo first")
    assert (output, code) == ("first\n", 0)
    assert (tmp_path / "data/local/tmp/f").read_text() == "late\n"


@pytest.mark.parametrize(
    "command", ["echo 'open", "a |", "( b", "c && ; d", "> ", "$(e", "e &&", "${x:-y}", "; f", "g; ;", "()"]
)
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
