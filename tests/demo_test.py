import json
import re

import pytest

from mulsupcon_tf import demo
from mulsupcon_tf.reporting.sentences import METRIC_TITLES
from mulsupcon_tf.training.run_directory import read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.scripts import assert_one_line, run_script


def summaries(folder):
    return {name: json.loads((folder / name / "summary.json").read_text()) for name in ("pretrain", "finetune", "bce")}


def table_rows(stdout, head="test (%)"):
    """{title: its three numbers} of the printed table with that head."""
    pattern = r"^(\S+(?: \S+)*) {2,}(-?\d+\.\d) +(-?\d+\.\d) +([+−]?\d+\.\d)$"
    rows = re.findall(pattern, stdout.split(head)[1].split("\n\n")[0], flags=re.MULTILINE)
    return {title: [float(text.replace("−", "-")) for text in numbers] for title, *numbers in rows}


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_demo_runs_the_three_phases_on_equal_terms(finished_demo):
    runs = summaries(finished_demo.folder)
    assert [(run["phase"], run["method"], run["steps"]) for run in runs.values()] == [
        ("pretrain", "cld", 2),
        ("finetune", "cld", 2),
        ("finetune", "bce", 2),
    ]
    flags = {name: read_flags(finished_demo.folder / name / "flags.txt") for name in runs}
    epochs = {name: int(values["epochs"]) for name, values in flags.items()}
    assert epochs["bce"] == epochs["pretrain"] + epochs["finetune"]
    assert flags["finetune"]["pretrained"] == str(finished_demo.folder / "pretrain")
    assert "pretrained" not in flags["bce"]
    assert {values["seed"] for values in flags.values()} == {"0"}
    assert {values["batch_size"] for values in flags.values()} == {"128"}
    assert flags["finetune"]["head"] == "reuse"
    rates = {
        name: (values["learning_rate"], values["optimizer"], values["weight_decay"]) for name, values in flags.items()
    }
    assert len(set(rates.values())) == 1


def test_demo_prints_the_search_of_every_run(finished_demo):
    rows = table_rows(finished_demo.stdout, "search (%)")
    files = {
        "BCE only, features": "bce/retrieval.json",
        "BCE only, probabilities": "bce/retrieval_probabilities.json",
        "CLD pretraining, embedding": "pretrain/retrieval.json",
        "CLD + fine-tuning, features": "finetune/retrieval.json",
        "CLD + fine-tuning, probabilities": "finetune/retrieval_probabilities.json",
    }
    assert set(rows) == set(files)
    for title, file in files.items():
        judged = json.loads((finished_demo.folder / file).read_text())
        assert judged["representation"] == title.split(", ")[1] and judged["truth"]
        found = [100 * judged["results"][name]["value"] for name in ("mAP", "dominant", "ndcg_distributions")]
        assert rows[title] == pytest.approx(found, abs=0.0500001)
    best = [
        max(rows[f"{run}, {name}"][0] for name in ("features", "probabilities"))
        for run in ("CLD + fine-tuning", "BCE only")
    ]
    (said,) = re.findall(r"mAP@10 (\d+\.\d) by \w+ against (\d+\.\d) by \w+\.", finished_demo.stdout)
    assert [float(text) for text in said] == best


def test_demo_prints_the_numbers_of_the_summaries(finished_demo):
    runs, rows = summaries(finished_demo.folder), table_rows(finished_demo.stdout)
    assert set(rows) == set(METRIC_TITLES.values()) and len(rows) == 6
    for key, title in METRIC_TITLES.items():
        ours, bce, difference = rows[title]
        assert ours == pytest.approx(100 * runs["finetune"]["test"][key], abs=0.0500001)
        assert bce == pytest.approx(100 * runs["bce"]["test"][key], abs=0.0500001)
        assert difference == pytest.approx(ours - bce, abs=1e-6)


def test_demo_says_what_it_does_and_where_the_report_is(finished_demo):
    lines = finished_demo.stdout.splitlines()
    assert [line[:3] for line in lines if re.match(r"\d/5", line)] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    report = finished_demo.folder / "report.html"
    assert lines[-1] == f"report: {report}" and report.stat().st_size > 100_000
    assert "finished before" not in finished_demo.stdout
    assert "Traceback" not in finished_demo.stderr and "cuda" not in finished_demo.stderr.lower()


def test_finished_demo_writes_nothing_and_says_so_while_a_lost_report_is_written_again(finished_demo, capsys):
    before = modification_times(finished_demo.folder)
    demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2))
    again = capsys.readouterr().out
    assert "finished before" in again and table_rows(again) == table_rows(finished_demo.stdout)
    assert modification_times(finished_demo.folder) == before

    report = finished_demo.folder / "report.html"
    first = report.read_text()
    report.unlink()
    demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2))
    assert "finished before" not in capsys.readouterr().out
    assert report.read_text() == first
    del before[report]
    after = modification_times(finished_demo.folder)
    del after[report]
    assert after == before


def test_other_settings_are_refused_and_leave_the_folder_alone(finished_demo):
    before = modification_times(finished_demo.folder)
    with pytest.raises(InputError, match="--seed: 0 there, 1 here"):
        demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2, seed=1))
    assert modification_times(finished_demo.folder) == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdir=occupied", "the file occupied"),
        ("--seed=-1", "--seed must be"),
        ("--max_steps=0", "--max_steps must be"),
    ],
)
def test_wrong_settings_get_one_line(tmp_path, flag, message):
    (tmp_path / "occupied").touch()
    assert_one_line(run_script("mulsupcon_tf.demo", flag, cwd=tmp_path), message)
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]


@pytest.mark.slow
def test_the_demo_runs_on_all_of_its_scenes(tmp_path):
    done = run_script("mulsupcon_tf.demo", f"--workdir={tmp_path / 'run'}", "--max_steps=2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "cuda" not in done.stderr.lower()
    for summary in summaries(tmp_path / "run").values():
        assert summary["split_sizes"] == {"train": 6000, "validation": 1000, "test": 2000}


def test_help_names_every_flag():
    done = run_script("mulsupcon_tf.demo", "--help")
    assert done.returncode == 0
    assert all(text in done.stdout for text in ("--workdir", "--seed", "--max_steps", "continues"))
