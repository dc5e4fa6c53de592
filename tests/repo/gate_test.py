"""The release gate: that it runs every promise, believes nothing that did not run, and notices failures."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import harness
import readme

ROOT = pathlib.Path(os.environ.get("KILN_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
sys.path.insert(0, str(ROOT / "tests" / "gate"))
import parts  # noqa: E402


def load_gate():
    loader = importlib.machinery.SourceFileLoader("gate_script", str(ROOT / "tests" / "gate" / "gate"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gate_script", loader))
    loader.exec_module(module)
    return module


GATE = load_gate()


class Contract(unittest.TestCase):
    def test_every_promise_has_a_part(self):
        self.assertEqual(set(parts.PROMISES), {part.promise for part in parts.load_parts()})

    def test_the_readme_states_the_same_promises(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        self.assertEqual(list(map(list, parts.PROMISES.items())), readme.table_below(text, "Reliability"))

    def test_scripts_that_parts_run_exist(self):
        for part in parts.load_parts():
            for word in part.command:
                if "{source}" in word:
                    self.assertTrue(pathlib.Path(word.format(source=ROOT, build="")).exists(), word)

    def test_programs_that_parts_run_are_targets(self):
        built = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/CMakeLists.txt"))
        for part in parts.load_parts():
            for word in part.command:
                for program in re.findall(r"\{build\}/tests/\w+/(\w+)$", word):
                    stem = re.sub(r"^(mutant|fuzz)_.*", r"\1_", program)
                    self.assertIn(stem, built, part)


class Verdicts(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="kiln-gate-")
        self.addCleanup(directory.cleanup)
        self.build = pathlib.Path(directory.name)
        (self.build / "tests").mkdir()
        self.json = self.build / "summary.json"
        saved = GATE.gate.load_parts
        self.addCleanup(lambda: setattr(GATE.gate, "load_parts", saved))

    def run_gate(self, *scripts, arguments=(), **more):
        """Exit code, printed lines and the JSON of a gate whose parts are these shell scripts for C1."""
        made = [parts.Part("C1", f"script {number}", ("bash", "-c", script), 1, 1, **more)
                for number, script in enumerate(scripts)]
        GATE.gate.load_parts = lambda: made
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            code = GATE.main(["--only", "C1", "--build-release", str(self.build), "--json", str(self.json), *arguments])
        return code, printed.getvalue().splitlines(), json.loads(self.json.read_text(encoding="utf-8"))

    def test_figures_of_all_parts_stand_in_one_line(self):
        code, lines, summary = self.run_gate("echo FIGURES: 7 of 7", "echo noise; echo FIGURES: 0 bad")
        self.assertEqual(0, code)
        self.assertRegex(lines[0], r"^C1 +passed +\d+\.\d s  7 of 7; 0 bad$")
        self.assertEqual("passed", summary["promises"]["C1"]["status"])
        self.assertEqual(["0 bad"], summary["promises"]["C1"]["parts"][1]["figures"])

    def test_a_failure_is_a_failure_whatever_else_passes(self):
        for script in ("exit 1", "kill -SEGV $$", "echo SKIPPED: no; exit 3"):
            with self.subTest(script):
                code, lines, summary = self.run_gate("true", script)
                self.assertEqual((1, "FAILED"), (code, summary["promises"]["C1"]["status"]))
                self.assertIn("FAILED", lines[0])

    def test_what_was_skipped_is_said_with_its_reason(self):
        code, lines, summary = self.run_gate("true", "echo SKIPPED: no GPU in this box; exit 4")
        self.assertEqual((0, "partly"), (code, summary["promises"]["C1"]["status"]))
        self.assertIn("SKIPPED: C1: script 1: no GPU in this box", lines)

    def test_a_gate_in_which_nothing_ran_has_not_passed(self):
        code, lines, _ = self.run_gate("echo SKIPPED: no; exit 4")
        self.assertEqual(parts.SKIPPED, code)
        self.assertIn("skipped", lines[0])

    def test_a_missing_build_and_a_missing_program_are_told_apart(self):
        code, lines, _ = self.run_gate("true", tree="tsan", arguments=["--build-tsan", str(self.build / "none")])
        self.assertEqual(parts.SKIPPED, code)
        self.assertTrue(any("no tsan build with tests" in line for line in lines), lines)
        code, _, summary = self.run_gate("exec /no/such/program")
        self.assertEqual((1, 127), (code, summary["promises"]["C1"]["parts"][0]["exit"]))

    def test_a_part_that_hangs_is_ended_and_has_failed(self):
        GATE.LIMIT_S, saved = 1, GATE.LIMIT_S
        self.addCleanup(lambda: setattr(GATE, "LIMIT_S", saved))
        code, _, summary = self.run_gate("echo before; sleep 600")
        result = summary["promises"]["C1"]["parts"][0]
        self.assertEqual((1, "timeout"), (code, result["exit"]))
        self.assertIn("before", result["output"])

    def test_what_no_longer_fits_into_the_time_is_cut_visibly(self):
        code, lines, _ = self.run_gate("true", arguments=["--minutes", "0.001"])
        self.assertEqual(parts.SKIPPED, code)
        self.assertTrue(any("cut:" in line for line in lines), lines)

    def test_parts_learn_the_scale(self):
        for scale in ("small", "full"):
            _, lines, _ = self.run_gate("echo FIGURES: $KILN_GATE_SCALE", arguments=["--scale", scale])
            self.assertTrue(lines[0].endswith(scale), lines)

    def test_bad_command_lines_are_refused(self):
        for words in (["--only", "C17"], ["--minutes", "0"], ["--scale", "medium"], ["--none"]):
            with self.subTest(words):
                done = subprocess.run([sys.executable, str(ROOT / "tests/gate/gate"), *words], capture_output=True,
                                      text=True, check=False)
                self.assertEqual(2, done.returncode, done.stdout)


if __name__ == "__main__":
    sys.exit(harness.run(__name__))
