"""Which engine and arithmetic run a quantised artefact is measured once, kept, pinned or cleared."""

from __future__ import annotations

import json

import pytest

import bagel_rt
from bagel_engines.select import installed
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.errors import InputError
from bagel_rt.estimate import calibration, choice
from bagel_rt.estimate.calibration import Measured, calibrate, fastest
from bagel_rt.estimate.ways import Way, offered, quantised

SLOW, FAST, ROUGH = Way("openvino"), Way("onnxruntime", "int8"), Way("onnxruntime", "int8-rows")
TIMED = [
    Measured(ROUGH, {"token": 0.001, "256": 0.1, "1024": 0.4}, 0.2),
    Measured(FAST, {"token": 0.002, "256": 0.2, "1024": 0.8}, 0.02),
    Measured(SLOW, {"token": 0.004, "256": 0.4}, 0.0),
]


@pytest.fixture
def timed(monkeypatch) -> list[str]:
    """Measurements as planted, of artefacts of any size; the list has the folders that were measured."""
    measured = []

    def planted(manifest, ways, threads):
        measured.append(manifest.folder.name)
        return TIMED

    monkeypatch.setattr(choice, "calibrate", planted)
    monkeypatch.setattr(choice, "LEAST_BYTES", 0)
    return measured


def test_the_fastest_way_within_the_error_is_taken_else_the_nearest():
    assert fastest(TIMED).way == FAST
    assert fastest(TIMED[:1]).way == ROUGH
    assert TIMED[2].score("full") == 100 * 4 * 0.4 + 300 * 0.004  # 1024 rows were not timed: four times 256


def test_a_way_is_measured_once_kept_and_used_where_none_is_named(quantised_artefacts, timed):
    folder = quantised_artefacts / "int8"
    with pytest.warns(bagel_rt.BagelWarning, match=r"runs with onnxruntime/int8, the fastest here.*bagel-rt ways"):
        bagel_rt.load(folder).close()
    with bagel_rt.load(folder) as bagel:
        assert bagel.engine.startswith("onnxruntime")
        assert bagel.engine.endswith("(cpu, int8)")
    with bagel_rt.load(folder, "onnxruntime", arithmetic="int8-rows") as bagel:
        assert "int8-rows" in bagel.engine
    assert timed == ["int8"]


def test_what_is_kept_counts_for_this_machine_and_these_versions_alone(quantised_artefacts, timed, monkeypatch):
    manifest = read_manifest(quantised_artefacts / "int8")
    with pytest.warns(bagel_rt.BagelWarning):
        choice.chosen(manifest)
    assert choice.kept(manifest) is not None
    assert choice.kept(manifest, threads=1) is None
    monkeypatch.setattr(choice, "processor", lambda: "another CPU")
    assert choice.kept(manifest) is None


def test_small_and_exact_artefacts_run_as_they_state(quantised_artefacts, small_artefact, timed, monkeypatch):
    exact = read_manifest(small_artefact)
    assert not quantised(exact)
    assert choice.resolved(exact, "auto", "cpu", "auto", None) == ("auto", None)
    monkeypatch.setattr(choice, "LEAST_BYTES", 1 << 30)
    small = read_manifest(quantised_artefacts / "int8")
    assert choice.resolved(small, "auto", "cpu", None, None) == ("auto", None)
    assert choice.resolved(small, "openvino", "cpu", "float32", None) == ("openvino", "float32")
    assert not timed


def test_a_way_is_pinned_and_cleared_by_command(quantised_artefacts, timed, capsys):
    folder = str(quantised_artefacts / "int8")
    assert main(["ways", "--model", folder, "--pin", "onnxruntime/int8-rows"]) == 0
    assert "onnxruntime/int8-rows, pinned" in capsys.readouterr().out
    with bagel_rt.load(folder) as bagel:
        assert "int8-rows" in bagel.engine
    assert main(["ways", "--model", folder, "--clear"]) == 0
    assert "1 choices" in capsys.readouterr().out
    assert main(["ways", "--model", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["way"] == "onnxruntime/int8"
    assert timed == ["int8"]


@pytest.mark.parametrize("way", ["openvino", "openvino/int9", "nothing/stated"])
def test_a_way_that_is_none_is_refused(quantised_artefacts, way, capsys):
    assert main(["ways", "--model", str(quantised_artefacts / "int8"), "--pin", way]) in (1, 2)
    assert "allowed" in capsys.readouterr().err
    with pytest.raises(InputError, match="ENGINE/ARITHMETIC"):
        Way.parse("openvino/")


@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
def test_every_way_that_is_offered_runs_and_is_near_float32(quantised_artefacts, word):
    manifest = read_manifest(quantised_artefacts / word)
    ways = offered(manifest)
    assert {way.backend for way in ways} == set(installed())
    found = calibrate(manifest, ways)
    assert sorted(map(str, ways)) == sorted(str(one.way) for one in found)
    for one in found:
        assert set(one.seconds) >= {"token", "256"}
        assert min(one.seconds.values()) > 0
        assert one.error < 0.1


def test_a_calibration_ends_in_time(quantised_artefacts, monkeypatch):
    monkeypatch.setattr(calibration, "MOST_SECONDS", 0.0)
    manifest = read_manifest(quantised_artefacts / "int8")
    assert len(calibrate(manifest, offered(manifest))) == 1
