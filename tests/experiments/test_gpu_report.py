"""The report of a GPU says what was measured, and says so where nothing was."""

from adaln_lab.experiments import gpu_report
from adaln_lab.experiments.gpu_report import NOTHING


def test_without_a_stored_result_it_says_not_measured(monkeypatch):
    monkeypatch.setattr(gpu_report, "stored", lambda name: None)
    assert gpu_report.gpu_report() == NOTHING


def test_a_result_is_told_with_what_failed_left_out_or_named():
    steps = {"GFLOP": 1.0, "textbook": {"ms": 4.0}, "graph": {"ms": 1.0, "speed": 4.0}, "compiled": "no Triton"}
    quality = {
        "digits": {"reached": 2.5, "bar": 0.95, "curve": [{"accuracy": 0.96}]},
        "scenes": {"reached": None, "bar": 0.95, "curve": [{"accuracy": 0.5}]},
        "mnist": "could not be downloaded",
    }
    checks = {"one": "ok", "two": "AssertionError: losses differ"}
    parts = {"training step": {"course": steps}, "time to quality": quality, "checks": checks}
    about = {"machine": "a card", "torch": "2.13.0", "date": "2026-11-28"}
    assert gpu_report.gpu_report({"about": about, "parts": parts}).splitlines() == [
        "a card, torch 2.13.0, 2026-11-28",
        "a step, course, textbook: 4 ms",
        "a step, course, graph: 1 ms, 4.00 times the textbook's speed",
        "digits: 95% reached in 2.5 s; at the end 96.0%",
        "scenes: 95% not reached; at the end 50.0%",
        "checks that failed: two",
    ]
