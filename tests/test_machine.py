"""What a machine keeps of a run beside its results: compiled programs, and a trace of a few steps."""

import jax
import pytest
from tiny_runs import run, train_command, write_small_store

from lra_tasks.machine import cache_folder, keep_compiled_programs
from lra_tasks.profiling import SKIPPED_STEPS, TRACED_STEPS, Profile


@pytest.fixture
def jax_settings():
    """JAX's own, put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_of_compiled_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/named/by/jax")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder("off") is None
    assert str(cache_folder("auto")) == "/named/by/jax"
    assert str(cache_folder("~/programs")) == "/home/somebody/programs"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert cache_folder("auto") == tmp_path / "luna-jax" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_folder("auto")) == "/home/somebody/.cache/luna-jax/xla"


def test_a_folder_is_made_for_its_owner_alone(tmp_path, jax_settings):
    assert keep_compiled_programs(str(tmp_path / "a" / "b")) is None
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "b")
    assert keep_compiled_programs("off") is None
    assert not jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_made_is_said_and_no_error(tmp_path, jax_settings):
    (tmp_path / "file").write_text("")
    fault = keep_compiled_programs(str(tmp_path / "file" / "cache"))
    assert "compiled programs are not kept" in fault
    assert "--config.machine.compilation_cache" in fault
    assert not jax.config.jax_enable_compilation_cache


def test_a_run_keeps_its_programs_and_writes_a_trace(tmp_path):
    """The folders lie where the flags say; neither is in the config that a run is held to."""
    data_dir, workdir, cache = write_small_store(tmp_path / "data"), tmp_path / "run", tmp_path / "cache"
    steps = {"train__num_steps": SKIPPED_STEPS + TRACED_STEPS + 1, "machine__compilation_cache": cache}
    ended = run(*train_command(workdir, data_dir, **steps), "--profile")
    assert ended.returncode == 0, ended.stderr
    assert any("train_step" in file.name for file in cache.iterdir())
    assert f"profile of {TRACED_STEPS} steps below" in ended.stderr
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert "machine" not in (workdir / "config.json").read_text()
    again = run(*train_command(workdir, data_dir, **steps | {"machine__data": 1}))  # on another machine, so to speak
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout


def test_a_trace_ends_by_itself(tmp_path):
    """Behind its steps, however long the run goes on."""
    profile, newest = Profile(tmp_path / "profile"), jax.numpy.zeros(())
    said = {done: profile.look(done, newest) for done in range(SKIPPED_STEPS + TRACED_STEPS + 3)}
    assert [done for done, text in said.items() if text] == [SKIPPED_STEPS + TRACED_STEPS]
    assert profile.close() is None


def test_a_run_too_short_for_a_trace_says_so(tmp_path):
    profile = Profile(tmp_path / "profile")
    for done in range(SKIPPED_STEPS):
        assert profile.look(done, None) is None
    assert "no profile: it begins behind 10 steps" in profile.close()
    assert profile.close() is None
    assert Profile(None).close() is None
