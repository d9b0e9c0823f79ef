"""`bench` measures a picture, an edit and a token, and says on what and in which way."""

from __future__ import annotations

import json

from bagel_rt.cli import bench, main


def test_bench_measures_requests_and_the_shares_of_the_machines_rates(model, monkeypatch, capsys):
    monkeypatch.setattr(bench, "POINTS", 4)
    monkeypatch.setattr(bench, "TOKENS", 3)
    assert main(["bench", "--backend", "onnxruntime"]) == 0
    report = json.loads(capsys.readouterr().out)
    kinds = [name for name in report if name.startswith(("picture ", "edit "))]
    assert len(kinds) == 2
    for name in (*kinds, "3 tokens"):
        assert report[name]["forecast_s"] > 0
        assert report[name]["measured_s"] > 0
    assert report["tokens_per_s"] > 0
    assert 0 < report["share_of_float32_rate"] < 2
    assert set(report["layer_ms"]) == {"token", "256", "1024"}
    assert report["engine"].startswith("onnxruntime")
    assert report["cpus_used"] >= 1


def test_bench_is_of_the_cpu(model, capsys):
    assert main(["bench", "--device", "cuda"]) == 2
    assert "bench measures on a CPU" in capsys.readouterr().err
