import json
import os
import re
import shutil
import subprocess
import sys
import types
import urllib.request
from pathlib import Path

import pytest
from published_student import make_files, make_manifest, publish_legal
from report_run import finished

from flows import recipe_file, run_directory
from flows.cli import main
from schemas.errors import GateError, StageError
from student.registry.open_store import open_store
from student.registry.publish import publish
from teacher.domain import pack as packs
from teacher.inference.process import free_port

ROOT = Path(__file__).parents[3]
TRACES = ROOT.parent / "shared" / "peers" / "tau-bench" / "airline_traces.jsonl"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "_error_log", Path("stillhouse-error.log"))


@pytest.fixture
def stillhouse(capsys):
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main._run(list(arguments))
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def stages(monkeypatch):
    """Stands in for flows.distill: records its calls, and behaves as a test sets."""
    calls = []
    module = types.ModuleType("flows.distill")

    def distill(domain, recipe, directory, *, until=None, only=None, hardware=None):
        calls.append(
            {
                "domain": domain,
                "recipe": recipe,
                "directory": directory,
                "until": until,
                "only": only,
                "hardware": hardware,
            }
        )
        return module.behave()

    module.distill = distill  # type: ignore[attr-defined]
    module.behave = lambda: {"kept": 3}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.distill", module)
    return types.SimpleNamespace(calls=calls, module=module)


def fails_with(error: BaseException):
    def behave():
        raise error

    return behave


def assert_one_line(error: str, *words: str) -> None:
    assert re.fullmatch(r"stillhouse: [^\n]+\n", error), error
    assert "Traceback" not in error
    for word in words:
        assert word in error


def test_with_log_json_an_error_is_an_object_and_the_next_command_is_plain_again(stillhouse):
    code, _, error = stillhouse("--log-json", "report", "none")
    row = json.loads(error)
    assert code == row["exit_code"] == 2
    assert row["message"].startswith("none: not a run") and row["level"] == "error"
    assert_one_line(stillhouse("report", "none")[2], "not a run")


def test_metrics_are_served_while_the_command_runs_and_no_longer(stillhouse, stages):
    url = f"http://127.0.0.1:{(port := free_port())}/metrics"
    answers = []
    stages.module.behave = lambda: answers.append(urllib.request.urlopen(url, timeout=30).read())
    code, _, error = stillhouse("--metrics-port", str(port), "distill", "legal")
    assert code == 0 and b"stillhouse_stage_running" in answers[0] and url in error
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)
    assert_one_line(stillhouse("--metrics-port", "70000", "models")[2], "--metrics-port")


# ------------------------------------------------------------------------------------- usage and input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distil"], ["No such command 'distil'"]),
        (["distill"], ["Missing argument", "`stillhouse distill --help`"]),
        (["distill", "legal", "--recipe"], ["--recipe"]),
        (["distill", "../x"], ["../x: no such domain", "new-domain"]),
        (["distill", "legal", "--recipe", "none"], ["none: no such recipe"]),
        (["distill", "legal", "--set", "train.epoch=3"], ["did you mean train.epochs?"]),
        (["distill", "legal", "--until", "end"], ["--until end", "expected one of plan, generate"]),
        (["train", "runs/none"], ["runs/none: not a run"]),
        (["report", "runs/none"], ["runs/none: not a run"]),
        (["pull", "none"], ["none: no such model"]),
        (["validate", "none.jsonl"], ["none.jsonl: no such file"]),
        (["new-domain", "9"], ["9: expected a name that begins with a letter"]),
    ],
    ids=" ".join,
)
def test_bad_usage_and_bad_input_are_one_line_and_exit_2(stillhouse, arguments, words):
    code, out, error = stillhouse(*arguments)
    assert (code, out) == (2, "")
    assert_one_line(error, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [x\n", ["domain.yaml: line 2: not YAML"]),
        ("name: 7\n", ["domain.yaml: "]),
        ("- a\n", ["domain.yaml: top level"]),
    ],
)
def test_a_broken_domain_yaml_is_one_line_that_names_it(stillhouse, tmp_path, text, words):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "domain.yaml").write_text(text)
    code, _, error = stillhouse("distill", "./broken")
    assert code == 2
    assert_one_line(error, *words)
    assert not (tmp_path / "runs").exists()


def test_the_installed_command_exits_with_the_code_and_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "distill", "../x"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr, "../x: no such domain")


def test_without_arguments_it_prints_help(stillhouse):
    code, out, error = stillhouse()
    assert (code, error) == (0, "")
    for name in (
        "distill",
        "plan",
        "validate",
        "verify",
        "models",
        "pull",
        "report",
        "check-teacher",
    ):
        assert re.search(rf"^  {name} .*[^.]\.$", out, re.MULTILINE), name


def test_every_command_has_help_with_an_example(stillhouse):
    _, out, _ = stillhouse("--help")
    names = re.findall(r"^  ([a-z-]+)  ", out[out.index("Commands:") :], re.MULTILINE)
    assert len(names) == 24
    for name in names:
        code, text, _ = stillhouse(name, "--help")
        assert code == 0
        assert re.search(rf"Examples?:\n\s+stillhouse {name}", text), name


def test_help_and_validate_start_without_the_training_stack():
    script = (
        "import sys; from flows.cli import main;"
        "main._run(['--help']); main._run(['validate', 'none.jsonl']);"
        "print([m for m in ('torch', 'prefect', 'transformers', 'pandas', 'lark') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------- the pipeline


def test_distill_passes_on_recipe_directory_and_stage(stillhouse, stages):
    pack(stillhouse, "desk")
    code, _, error = stillhouse(
        "distill", "./desk", "--set", "tasks.train=7", "--until", "filter", "--json", "out.json"
    )
    assert (code, error) == (0, "")
    (call,) = stages.calls
    assert (call["domain"], call["until"], call["only"]) == ("./desk", "filter", None)
    assert call["recipe"].tasks.train == 7
    assert call["directory"] == Path("runs/desk-local")
    assert json.loads(Path("out.json").read_text()) == {"kept": 3}


def test_plan_passes_on_the_hardware(stillhouse, stages):
    pack(stillhouse, "desk")
    assert stillhouse("plan", "./desk", "--gpus", "8xH200")[0] == 0
    (call,) = stages.calls
    assert (call["until"], call["hardware"]) == ("plan", "8xH200")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "legal", "--gpus", "8xFOO"], "--gpus 8xFOO"),
        (["plan", "legal", "--set", "generate.mode=instant"], "generate.mode: found 'instant'"),
        (["plan", "legal", "--set", "serve.url=gpu-7"], "serve.url"),
        (
            ["plan", "legal", "--set", "publish.store=http://a/b"],
            "publish.store: found 'http://a/b'",
        ),
        (["plan", "legal", "--set", f"publish.store={ROOT}"], "not a store"),
        (["serve", "kimi"], "kimi: no such teacher"),
        (["check-teacher", "gpu-7:8000", "--model", "teacher"], "gpu-7:8000"),
        (
            ["check-teacher", "http://127.0.0.1:1/v1", "--model", "m", "--teacher", "x"],
            "x: no such",
        ),
    ],
)
def test_input_that_cannot_run_is_one_line_before_anything_starts(stillhouse, arguments, words):
    code, _, error = stillhouse(*arguments)
    assert code == 2
    assert_one_line(error, words)


def test_a_teacher_that_does_not_fit_is_not_served(stillhouse):
    # No machine that runs these tests has eight H200.
    code, _, error = stillhouse("serve", "kimi-k2.5")
    assert code == 3
    assert_one_line(error, "kimi-k2.5: does not fit")


def test_an_unreachable_server_fails_the_check(stillhouse):
    code, out, error = stillhouse("check-teacher", "http://127.0.0.1:1/v1", "--model", "teacher")
    assert code == 3
    assert "FAILED  health" in out
    assert_one_line(error, "health")


def test_json_to_stdout_is_only_the_json(stillhouse, stages):
    pack(stillhouse, "desk")
    _, out, _ = stillhouse("plan", "./desk", "--json", "-")
    assert json.loads(out) == {"kept": 3}
    assert stages.calls[0]["until"] == "plan"


def test_a_stage_of_a_run_takes_its_recipe_and_domain_from_the_run(stillhouse, stages, tmp_path):
    pack(stillhouse, "desk")
    chosen = recipe_file.load("local", ["train.epochs=9"])
    run_directory.Run.open(tmp_path / "r", chosen, "desk", tmp_path / "desk").close()
    code, _, error = stillhouse("train", "r")
    assert (code, error) == (0, "")
    (call,) = stages.calls
    assert call["only"] == "train"
    assert call["recipe"] == chosen
    assert packs.load(call["domain"]).name == "desk"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StageError("export: no compiler:\n install g++"), 1, ["export: no compiler: install g++"]),
        (GateError("min_gain: failed"), 3, ["min_gain: failed"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (OSError(28, "No space left on device", "x.gguf"), 1, ["x.gguf: the disk is full"]),
        (RuntimeError("write failed: No space left on device (os error 28)"), 1, ["disk is full"]),
    ],
    ids=["stage", "gate", "interrupt", "full disk", "full disk in torch"],
)
def test_a_failure_of_the_pipeline_is_one_line_and_its_code(
    stillhouse, stages, tmp_path, error, code, words
):
    stages.module.behave = fails_with(error)
    got, _, text = stillhouse("distill", "legal", "--run", "r")
    assert got == code
    assert_one_line(text, *words)


def test_a_bug_is_one_line_and_its_traceback_is_in_the_runs_log(stillhouse, stages):
    stages.module.behave = fails_with(KeyError("steps"))
    code, _, error = stillhouse("distill", "legal", "--run", "r")
    assert code == 1
    assert_one_line(error, "unexpected KeyError", "r/logs/error.log")
    assert "Traceback" in Path("r/logs/error.log").read_text()


def test_debug_prints_the_traceback(stillhouse, stages):
    stages.module.behave = fails_with(KeyError("steps"))
    code, _, error = stillhouse("--debug", "distill", "legal", "--run", "r")
    assert code == 1
    assert "Traceback" in error


# ------------------------------------------------------------------------------------- domains


def pack(stillhouse, name: str) -> None:
    code, _, error = stillhouse("new-domain", name)
    assert (code, error) == (0, "")


def test_a_new_domain_loads_and_its_tasks_are_solvable(stillhouse):
    pack(stillhouse, "My Desk")
    loaded = packs.load("./My Desk")
    assert loaded.name == "my-desk"
    assert {t.kind for t in loaded.templates.values()} == {"lookup", "workflow"}
    tasks = pytest.importorskip("teacher.domain.tasks")
    train, exam = (
        tasks.sample(loaded, "train", 200, seed=0),
        tasks.sample(loaded, "exam", 60, seed=0),
    )
    assert len(train) == 200
    numbers = [
        {n for task in part for n in re.findall(r"S-\d+", str(task))} for part in (train, exam)
    ]
    assert not numbers[0] & numbers[1]


@pytest.mark.slow
def test_a_new_domain_passes_the_checks_without_a_warning(stillhouse):
    pack(stillhouse, "My Desk")
    code, out, _ = stillhouse("check-domain", "./My Desk")
    assert code == 0
    assert "0 errors, 0 warnings" in out


def test_a_new_domain_names_the_commands_that_come_next(stillhouse):
    code, out, _ = stillhouse("new-domain", "My Desk")
    assert code == 0
    for command in ("check-domain", "plan", "distill"):
        assert f"  stillhouse {command} './My Desk'" in out


def test_a_new_domain_overwrites_nothing(stillhouse, tmp_path):
    pack(stillhouse, "desk")
    (tmp_path / "desk" / "domain.yaml").write_text("mine")
    code, _, error = stillhouse("new-domain", "desk")
    assert code == 2
    assert_one_line(error, "desk: exists already")
    assert (tmp_path / "desk" / "domain.yaml").read_text() == "mine"


# ------------------------------------------------------------------------------------- validate, store


def test_validate_judges_every_line_and_writes_report_and_kept_rows(stillhouse, tmp_path):
    row = {"id": "a", "messages": [{"role": "user", "content": "hi"}], "tools": []}
    good = {**row, "messages": [*row["messages"], {"role": "assistant", "content": "Hello."}]}
    Path("t.jsonl").write_text(f"{json.dumps(good)}\n{{not json\n")
    code, out, _ = stillhouse("validate", "t.jsonl", "--json", "v.json", "--kept", "k.jsonl")
    assert code == 0
    judged = json.loads(Path("v.json").read_text())
    assert (judged["rows"], judged["kept"], judged["rejected"]) == (2, 1, {"malformed_trace": 1})
    assert [json.loads(line) for line in Path("k.jsonl").read_text().splitlines()] == [good]
    assert "2 rows: 1 kept, 1 rejected" in out
    assert "malformed_trace" in out
    _, out, _ = stillhouse("validate", "t.jsonl", "--json", "-")
    assert json.loads(out) == judged


@pytest.mark.skipif(
    not TRACES.is_file(), reason="the tau-bench traces are not beside this repository"
)
def test_validate_keeps_every_real_trace(stillhouse):
    code, out, _ = stillhouse("validate", str(TRACES), "--json", "-")
    judged = json.loads(out)
    assert (code, judged["rows"], judged["kept"], judged["rejected"]) == (0, 80, 80, {})


def test_models_of_an_empty_store_names_the_command_that_fills_it(stillhouse):
    code, out, _ = stillhouse("models")
    assert code == 0
    assert "no published students yet: `stillhouse distill DOMAIN` publishes one" in out
    assert stillhouse("models", "--json", "-")[1] == "[]\n"


def test_models_shows_the_exam_of_each_student_with_its_interval_and_its_parts(
    stillhouse, tmp_path, monkeypatch
):
    monkeypatch.setenv("STILLHOUSE_STORE", str(tmp_path / "store"))
    store = open_store(tmp_path / "store")
    publish_legal(store, tmp_path / "old")
    parts = {
        "all_tools": {"tasks": 60, "passed": 40},
        "as_trained": {"tasks": 30, "passed": 24},
        "drift": {"tasks": 30, "passed": 9},
    }
    manifest = make_manifest() | {
        "scorecard": {"base": 3, "student": 40, "tasks": 60, "parts": parts}
    }
    files = make_files(tmp_path / "new", b"other weights")
    publish(store, "legal", files, manifest, gate_passed=True)
    code, out, _ = stillhouse("models")
    head, new, old = out.splitlines()
    assert code == 0 and re.search(r"GATE +EXAM +OTHER PARTS +VARIANTS$", head)
    assert re.search(
        r"  40 of 60 \(54 to 77 %\) +tools as in training 24/30, renamed tools 9/30  ", new
    )
    assert re.search(r"  81 of 100 \(72 to 87 %\)  - +Q8_0", old)
    new, old = json.loads(stillhouse("models", "--json", "-")[1])
    assert new["exam"]["student"] == {"tasks": 60, "passed": 40, "interval": [0.5406, 0.7727]}
    assert new["exam"]["base"]["passed"] == 3 and list(new["exam"]["parts"]) == list(parts)
    assert old["exam"]["parts"] == {}


# ------------------------------------------------------------------------------------- make


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make with the set-up taken as done, and without the flags of an outer `make test`."""
    command = ["make", "--no-print-directory", "-o", ".venv/.ready", *arguments]
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_make_help_lists_every_target():
    done = make()
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"distill", "pull", "test", "serve"} < set(targets)
    for target in targets:
        assert re.search(rf"^  {target} ", done.stdout, re.MULTILINE), target


@pytest.mark.skipif(not (ROOT / ".venv/bin/stillhouse").exists(), reason="not set up by make")
@pytest.mark.parametrize("domain", ["../no such domain", "../it's", '../"quoted"', "../$(false)"])
def test_make_passes_on_a_domain_as_one_argument(domain):
    done = make("distill", f"DOMAIN={domain.replace('$', '$$')}")
    first, *others = done.stderr.splitlines()
    assert done.returncode == 2
    assert first.startswith(f"stillhouse: {domain}: no such domain")
    assert all(line.startswith("make: ***") for line in others)


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3"])
def test_make_setup_with_too_old_a_python_fails_with_one_line(tmp_path, python):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python3").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n'
    )
    (bin_ / "python3").chmod(0o755)
    for tool in ("sh", "make", "rm", "sed"):
        path = shutil.which(tool)
        assert path
        (bin_ / tool).symlink_to(path)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": str(bin_)},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("setup: found Python 3.9.2, expected Python 3.11")
    assert not (tmp_path / ".venv").exists()


def test_help_imports_no_heavy_library():
    code = (
        "import sys, flows.cli.main\n"
        "sys.argv = ['stillhouse', '--help']\n"
        "try: flows.cli.main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'prefect', 'numpy', 'PIL', 'aiohttp'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "distill" in done.stdout


def test_kept_traces_are_exported_and_what_a_format_lacks_is_counted(
    stillhouse, tmp_path: Path
) -> None:
    run = finished(tmp_path / "run")
    code, out, _ = stillhouse("export-traces", str(run), "--format", "sts", "--to", "sessions")
    assert code == 0 and "sessions: 4 of 4 kept traces, as sts" in out
    assert (tmp_path / "sessions" / "pack-train-moved-1-0.jsonl").is_file()
    code, _, error = stillhouse("export-traces", str(run), "--format", "sts", "--to", "sessions")
    assert code == 2
    assert_one_line(error, "sessions: exists already")
    code, _, error = stillhouse("export-traces", str(run), "--format", "atiff", "--to", "other")
    assert code == 2
    assert_one_line(error, "--format atiff: expected one of atif, sts, sharegpt, openai")
    (run / "filter" / "kept.jsonl").unlink()
    code, _, error = stillhouse("export-traces", str(run), "--format", "atif", "--to", "other")
    assert code == 2
    assert_one_line(error, "kept.jsonl: no such file: run `stillhouse filter")
    assert not (tmp_path / "other").exists()
