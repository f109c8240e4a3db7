"""The call store on the disk: versions, other people's files, two processes at once, crashes, and memory."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from tiny_run import environment

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask, ask_all
from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import VERSION, CallStore, copy_calls
from psychocounsel.records import content_id

VERSION_1 = """
CREATE TABLE IF NOT EXISTS texts (id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('pending', 'done')), raw TEXT) WITHOUT ROWID;
"""


def request(word="Hello", **fields):
    return Request(messages=({"role": "user", "content": word},), **fields)


def key(word="Hello"):
    return request(word).key("scripted", "scripted")


def version_1(path, *answered):
    """A store as the first version of this package wrote it."""
    store = sqlite3.connect(path)
    store.execute("PRAGMA journal_mode=WAL")
    store.executescript(VERSION_1)
    for word in answered:
        body = {"messages": [{"role": "user", "text": content_id(word)}], "sampling": {}, "schema": None, "sample": 0}
        store.execute("INSERT INTO texts VALUES (?, ?)", (content_id(word), word))
        values = (key(word), "scripted", "scripted", json.dumps(body), json.dumps({"text": word.upper()}))
        store.execute("INSERT INTO calls VALUES (?, ?, ?, ?, 'done', ?)", values)
    store.commit()
    store.close()
    return path


def script(code):
    """A process of its own that runs `code` with the package at hand."""
    head = """
        import asyncio, json, os, signal, sys, time
        from pathlib import Path
        from psychocounsel.models.calls import ask, ask_all, together
        from psychocounsel.models.chat import Request
        from psychocounsel.models.scripted import Scripted
        from psychocounsel.models.store import CallStore
        def request(word):
            return Request(messages=({"role": "user", "content": word},))
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)]


def run(code, *arguments):
    return subprocess.run(
        [*script(code), *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=120
    )


def test_a_store_of_the_first_version_is_brought_up_to_date_and_its_answers_are_found(tmp_path):
    path = version_1(tmp_path / "calls.sqlite", "one", "two")
    silent = Scripted(["unasked"])
    with CallStore(path) as store:
        answers = ask_all([(silent, request(word)) for word in ("one", "two")], store)
        assert ask_all([(Scripted(["new"]), request("three"))], store)[0].text == "new"
        assert store.reader.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert store.spent() == 0
    assert [answer.text for answer in answers] == ["ONE", "TWO"]
    assert all(answer.cached for answer in answers)
    assert silent.sent == []


def test_a_store_of_the_first_version_can_be_read_and_stays_as_it_is(tmp_path):
    path = version_1(tmp_path / "calls.sqlite", "one")
    before = path.read_bytes()
    with CallStore(path, read_only=True) as store:
        assert store.find(key("one")) == '{"text": "ONE"}'
        assert store.by_model() == [("scripted", "scripted", 1, 0)]
        assert store.tokens() == {("scripted", "scripted"): (0, 0, None)}
        assert (store.spent(), store.endpoint("any")) == (0, None)
    assert path.read_bytes() == before


def test_an_upgrade_that_was_cut_off_is_finished(tmp_path):
    path = version_1(tmp_path / "calls.sqlite", "one")
    half = sqlite3.connect(path)
    half.execute("ALTER TABLE calls ADD COLUMN tokens_in INTEGER NOT NULL DEFAULT 0")
    half.close()
    with CallStore(path) as store:
        assert ask_all([(Scripted(["unasked"]), request("one"))], store)[0].text == "ONE"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_a_later_version_is_refused_and_not_touched(tmp_path, read_only):
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        store.connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"calls\.sqlite: made by a later version of psychocounsel \(store version 99"):
        CallStore(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("tables", ["CREATE TABLE friends (name TEXT)", "CREATE TABLE calls (number TEXT, at REAL)"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_something_else_is_refused_and_not_touched(tmp_path, tables, read_only):
    path = tmp_path / "phone.sqlite"
    other = sqlite3.connect(path)
    other.execute(tables)
    other.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"phone\.sqlite: a database of something else, no call store"):
        CallStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_refused_file_can_be_opened_again_at_once(tmp_path):
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        store.connection.execute("PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(UserError, match="later version"):
            CallStore(path)


@pytest.mark.parametrize("content", [b"no database " * 200, b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "calls.sqlite"
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(UserError, match=r"calls\.sqlite: cannot be used as a call store"):
            CallStore(path, read_only=read_only)


def test_damage_that_shows_while_writing_is_one_clear_line(tmp_path):
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        ask_all([(Scripted(["x" * 3000]), request(f"{i}" * 2000)) for i in range(30)], store)
    whole = bytearray(path.read_bytes())
    for page in range(2, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"calls\.sqlite: c"), CallStore(path) as store:
        ask_all([(Scripted(["x"]), request(f"new {i}" * 2000)) for i in range(30)], store)


def test_a_second_process_may_read_but_not_write(tmp_path):
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        ask_all([(Scripted(["kept"]), request())], store)
        second = run("CallStore(Path(sys.argv[1]))", path)
        assert second.returncode != 0
        assert "another process is writing to this call store; wait for it, or name another store" in second.stderr
        reading = run(
            "store = CallStore(Path(sys.argv[1]), read_only=True); print(store.find(sys.argv[2]))", path, key()
        )
        assert reading.stdout == '{"text": "kept"}\n', reading.stderr
        ask_all([(Scripted(["more"]), request("more"))], store)
    third = run("CallStore(Path(sys.argv[1])).__exit__(None, None, None)", path)
    assert third.returncode == 0, third.stderr


def test_a_killed_process_leaves_no_lock(tmp_path):
    path = tmp_path / "calls.sqlite"
    dead = run("store = CallStore(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)", path)
    assert dead.returncode == -signal.SIGKILL
    with CallStore(path) as store:
        assert store.by_model() == []


def test_two_runs_on_one_run_folder_end_in_one_clear_line(tmp_path, cli):
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\n')
    with CallStore(tmp_path / "runs" / "r" / "calls.sqlite"):
        code, _, err = cli("run", recipe, "--to", "pairs", "--runs", tmp_path / "runs")
    assert code == 2
    assert "another process is writing to this call store" in err.splitlines()[-1]


def test_what_ask_returned_is_on_the_disk_even_if_the_process_dies_at_once(tmp_path):
    path = tmp_path / "calls.sqlite"
    dead = run(
        """
        async def main():
            store = CallStore(Path(sys.argv[1]))
            model = Scripted(lambda request: request.messages[0]["content"].upper())
            async def one(number):
                await ask(model, request(f"q{number}"), store)
                if number == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.gather(*(one(number) for number in range(8)))
        asyncio.run(main())
        """,
        path,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    with CallStore(path) as store:
        assert store.find(key("q7")) == '{"text": "Q7"}'


def test_a_crash_between_sending_and_storing_leaves_a_pending_row_and_the_call_is_asked_again(tmp_path):
    path = tmp_path / "calls.sqlite"
    dead = run(
        """
        class Deadly(Scripted):
            async def send(self, request):
                os.kill(os.getpid(), signal.SIGKILL)
        with CallStore(Path(sys.argv[1])) as store:
            ask_all([(Deadly(["never"]), request("Hello"))], store)
        """,
        path,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    with CallStore(path) as store:
        assert store.by_model() == [("scripted", "scripted", 0, 1)]
        model = Scripted(["again"])
        assert ask_all([(model, request())], store)[0].text == "again"
        assert len(model.sent) == 1
        assert store.by_model() == [("scripted", "scripted", 1, 0)]


class Wide(Scripted):
    """Answers many at once, after a turn of the loop."""

    concurrency = 50

    async def send(self, request):
        await asyncio.sleep(0.001)
        return await super().send(request)


def test_calls_that_run_side_by_side_share_commits(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        commits = []
        store.connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
        ask_all([(wide, request(f"q{i}")) for wide in [Wide(["a"])] for i in range(500)], store)
        store.connection.set_trace_callback(None)
    assert 20 <= len(commits) < 300, "two durable commits a call would be a thousand"


def test_a_commit_that_fails_is_told_to_everybody_who_waits_for_it(tmp_path):
    async def play(store):
        model = Scripted(["ok"])
        store.connection.execute("PRAGMA query_only = ON")
        return await asyncio.gather(*(ask(model, request(f"q{i}"), store) for i in range(5)), return_exceptions=True)

    with CallStore(tmp_path / "calls.sqlite") as store:
        failed = asyncio.run(play(store))
        assert [type(error) for error in failed] == [UserError] * 5
        store.connection.execute("PRAGMA query_only = OFF")
        assert ask_all([(Scripted(["ok"]), request("q9"))], store)[0].text == "ok"


def test_closing_waits_for_what_is_being_written(tmp_path):
    """A commit in its thread and rows noted meanwhile: closing writes both, and does not trip over the first."""
    path = tmp_path / "calls.sqlite"

    async def play(store):
        store.begin(key("one"), Scripted(["x"]), request("one"))
        saving = asyncio.create_task(store.saved())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        saving.cancel()

    with CallStore(path) as store:
        slow = store._commit

        def commit(rows):
            time.sleep(0.2)
            slow(rows)

        store._commit = commit
        asyncio.run(play(store))
        store.begin(key("two"), Scripted(["x"]), request("two"))
    with CallStore(path) as store:
        assert store.by_model() == [("scripted", "scripted", 0, 2)]


def test_a_loop_that_ends_while_rows_are_saved_harms_no_later_one(tmp_path):
    async def interrupted(store):
        store.begin(key("one"), Scripted(["x"]), request("one"))
        task = asyncio.create_task(store.saved())
        await asyncio.sleep(0)
        task.cancel()

    with CallStore(tmp_path / "calls.sqlite") as store:
        for _ in range(3):
            asyncio.run(interrupted(store))
        assert ask_all([(Scripted(["fine"]), request("two"))], store)[0].text == "fine"


def test_half_a_character_in_an_answer_harms_nobody(tmp_path):
    class Odd(Wide):
        async def send(self, request):
            await super().send(request)
            return json.dumps({"text": "half \ud83d"}, ensure_ascii=False) if "3" in str(request) else '{"text": "ok"}'

    with CallStore(tmp_path / "calls.sqlite") as store:
        answers = ask_all([(odd, request(f"q{i}")) for odd in [Odd(["x"])] for i in range(6)], store)
        assert [answer.text for answer in answers] == ["ok", "ok", "ok", "half ?", "ok", "ok"]
        assert store.by_model() == [("scripted", "scripted", 6, 0)]


def test_a_copy_is_a_store_with_the_same_answers(tmp_path):
    with CallStore(tmp_path / "a.sqlite") as store:
        ask_all([(Scripted(["x"]), request())], store)
        copy_calls(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
    with CallStore(tmp_path / "b.sqlite") as copied:
        assert copied.find(key()) == '{"text": "x"}'


def test_reading_goes_on_while_another_thread_writes(tmp_path):
    path, stop, seen = tmp_path / "calls.sqlite", threading.Event(), []
    with CallStore(path) as store:
        ask_all([(Scripted(["first"]), request())], store)

        def read():
            with CallStore(path, read_only=True) as reader:
                while not stop.is_set():
                    seen.append(reader.find(key()))

        thread = threading.Thread(target=read)
        thread.start()
        ask_all([(wide, request(f"q{i}")) for wide in [Wide(["a"])] for i in range(400)], store)
        stop.set()
        thread.join()
    assert len(seen) > 3
    assert set(seen) == {'{"text": "first"}'}


MEMORY_MB = 40


def test_twenty_thousand_calls_cost_the_memory_of_a_few(tmp_path):
    """20,000 calls with prompts of 4 kB (80 MB of text) through `together`: less than 40 MB more than after 2,000."""
    done = run(
        """
        import resource
        class Wide(Scripted):
            concurrency = 64
            async def send(self, request):
                await asyncio.sleep(0)
                return json.dumps({"text": "fine"})
        model = Wide(["x"])
        def memory():
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 1024
        async def one(number):
            await ask(model, request(f"{number} " * 600), store)
            return number
        def some(first, count):
            return together([(64, ((place, one(first + place)) for place in range(count)))], store)
        with CallStore(Path(sys.argv[1])) as store:
            store.connection.execute("PRAGMA synchronous=OFF")  # memory is measured here, not the disk
            some(0, 2_000)
            before = memory()
            assert some(2_000, 18_000) == list(range(2_000, 20_000))
            print(memory() - before, store.by_model()[0][2])
        """,
        tmp_path / "calls.sqlite",
    )
    assert done.returncode == 0, done.stderr
    grown, answered = done.stdout.split()
    assert int(answered) == 20_000
    assert float(grown) < MEMORY_MB


def test_a_user_model_that_asks_to_try_again_is_tried_again(tmp_path, monkeypatch):
    from psychocounsel.models import calls
    from psychocounsel.models.chat import TryAgain

    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.001)

    class Moody(Scripted):
        tries = 0

        async def send(self, request):
            self.tries += 1
            if self.tries < 3:
                raise TryAgain("busy") if self.tries == 1 else TimeoutError
            return await super().send(request)

    with CallStore(tmp_path / "calls.sqlite") as store:
        assert ask_all([(Moody(["at last"]), request())], store)[0] == Completion(text="at last", call_id=key())


def test_a_read_only_store_of_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be used as a call store"):
        CallStore(tmp_path / "none.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())
