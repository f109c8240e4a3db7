"""Trackers: figures go out, texts do not, and a tracker that fails stops nothing."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from psychocounsel.errors import UserError
from psychocounsel.training.trackers import Trackers

SETTINGS = {"lr": 1e-3, "epochs": 2, "base": "models/of-somebody"}
ROW = {"loss": 0.5, "lr": 1e-3, "speech": "a text of a client", "id": "0123456789abcdef"}


class StandIn(ModuleType):
    """As much of wandb and trackio as is used; keeps what it was given, fails where it is told to."""

    def __init__(self, name, fails="", login=True, mode="online"):
        super().__init__(name)
        self.calls, self.fails, self.has_login, self.mode = [], fails, login, mode

    def note(self, call, *given, **named):
        self.calls.append((call, given, named))
        if self.fails == call:
            raise ConnectionError("the network\nis down")

    def init(self, **named):
        self.note("init", **named)
        print(f"* {self.__name__} greets")
        return SimpleNamespace(log=lambda row, step: self.note("log", row, step), finish=self.finish)

    def finish(self):
        self.note("finish")

    def login(self, prompt):
        self.note("login", prompt)
        return self.has_login

    def setup(self):
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    Settings = dict


@pytest.fixture
def package(monkeypatch):
    def put(name, **behaviour):
        made = StandIn(name, **behaviour)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return put


def read(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return [(event.step, round(event.value, 6)) for event in found.Scalars(tag)], found.Tags()


def follow(folder, first, last, done=0, scale=1.0):
    trackers = Trackers(["tensorboard"], folder, "demo/reward", SETTINGS, done=done)
    for number in range(first, last + 1):
        trackers.log({**ROW, "loss": scale * number}, number)
    trackers.log({"dev_loss": 0.25}, last)
    trackers.close()


def test_tensorboard_files_hold_the_figures_and_nothing_else(tmp_path):
    follow(tmp_path, 1, 3)
    losses, tags = read(tmp_path, "loss")
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0)] and read(tmp_path, "dev_loss")[0] == [(3, 0.25)]
    assert set(tags.pop("scalars")) == {"loss", "lr", "dev_loss"} and not any(tags.values())
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert not any(word in written for word in (b"client", b"0123456789abcdef", b"somebody"))


def test_steps_made_again_after_a_kill_replace_those_before_it(tmp_path):
    follow(tmp_path, 1, 5)
    follow(tmp_path, 4, 6, done=3, scale=10.0)
    assert read(tmp_path, "loss")[0] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_alone_are_sent(tmp_path, capsys, package, name):
    module = package(name)
    trackers = Trackers([name], tmp_path, "demo/reward", SETTINGS)
    trackers.log(ROW, 7)
    trackers.close()
    trackers.log(ROW, 8)  # closed: nothing goes out
    made = {call: (given, named) for call, given, named in module.calls}
    assert made["log"] == (({"loss": 0.5, "lr": 1e-3}, 7), {})
    assert made["init"][1]["config"] == {"lr": 1e-3, "epochs": 2} and made["init"][1]["resume"] == "allow"
    assert [call for call, *_ in module.calls if call != "login"] == ["init", "log", "finish"]
    assert capsys.readouterr().out == ""  # what they print does not mix with results


def test_wandb_captures_no_console_code_or_machine_and_never_asks_for_a_key(tmp_path, package):
    module = package("wandb")
    Trackers(["wandb"], tmp_path, "demo/reward", SETTINGS).close()
    assert module.calls[0] == ("login", (False,), {})
    chosen = module.calls[1][2]["settings"]
    assert chosen["console"] == "off" and chosen["save_code"] is chosen["x_save_requirements"] is False
    assert all(chosen[key] for key in ("disable_code", "disable_git", "x_disable_meta", "x_disable_machine_info"))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_needs_a_login_only_when_it_sends(tmp_path, package, mode):
    package("wandb", login=False)
    with pytest.raises(UserError, match="wandb has no login; run: wandb login, or set WANDB_MODE=offline"):
        Trackers(["wandb"], tmp_path, "demo/reward", SETTINGS)
    assert package("wandb", login=False, mode=mode).calls == []
    Trackers(["wandb"], tmp_path, "demo/reward", SETTINGS).close()


def test_a_resumed_run_has_the_same_id_and_another_recipe_another(tmp_path, package):
    def opened(settings, done=0):
        wandb, trackio = package("wandb"), package("trackio")
        Trackers(["wandb", "trackio"], tmp_path, "demo/reward", settings, done=done).close()
        return wandb.calls[1][2]["id"], trackio.calls[0][2]["name"]

    first = opened(SETTINGS)
    assert first == opened(SETTINGS, done=50) and first[1] == f"demo/reward-{first[0]}"
    assert first[0] != opened({**SETTINGS, "base": "another"})[0]


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_dropped(tmp_path, capsys, package, fails):
    package("wandb", fails=fails)
    trackers = Trackers(["wandb", "tensorboard"], tmp_path, "demo/reward", SETTINGS)
    for number in (1, 2):
        trackers.log({"loss": float(number)}, number)
    trackers.close()
    assert [line for line in capsys.readouterr().err.splitlines() if "greets" not in line] == [
        "  wandb: the network is down; training goes on without it, metrics.jsonl has every figure"
    ]
    assert read(tmp_path, "loss")[0] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_said_before_anything_is_trained(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(UserError, match=r"is not installed: pip install 'psychocounsel\[trackers\]', or leave"):
        Trackers([name], tmp_path, "demo/reward", SETTINGS)


def test_other_processes_open_nothing(tmp_path, package):
    module = package("wandb")
    trackers = Trackers(["wandb", "tensorboard"], tmp_path, "demo/reward", SETTINGS, main=False)
    trackers.log(ROW, 1)
    trackers.close()
    assert module.calls == [] and list(tmp_path.iterdir()) == []
