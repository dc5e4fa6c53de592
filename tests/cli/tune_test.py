"""kiln tune: its configuration, the dry run, and putting tables together."""

import json
import shutil
import signal
import sys

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, GpuCase, MISS, NO_DEVICE, OK, SOURCE_DIR, USAGE
import harness

CONFIG = SOURCE_DIR / "configs/tune/h200.json"
SCHEMA = json.loads((SOURCE_DIR / "configs/schema/tune.schema.json").read_text())


class DryRun(CliCase):

    def small(self, **changes):
        document = json.loads(CONFIG.read_text())
        document["constraints"]["max_candidates"] = 2
        document["intervals"] = {"upper": [16, 128], "cover": "listed"}
        document.update(changes)
        return self.write("tune.json", document)

    def tune(self, *words, config=CONFIG, shapes=None, **options):
        shapes = shapes or self.shapes(("a", 512, 512), ("b", 768, 512), ("c", 512, 1024))
        return self.kiln("tune", "--config", config, "--shapes", shapes, "--cache", self.cache,
                         *words, **options)

    def test_it_shows_the_plan_of_the_shipped_configuration_and_touches_nothing(self):
        document = self.tune("--dry-run", "--json", "--cover", "all", expect=OK).json
        self.assertEqual(["a", "b", "c"], [p["name"] for p in document["problems"]])
        for problem in document["problems"]:
            intervals = problem["intervals"]
            self.assertEqual(0, intervals[0]["m_min"])
            self.assertEqual(2**31 - 512, intervals[-1]["m_max"])
            for left, right in zip(intervals, intervals[1:]):
                self.assertEqual(left["m_max"] + 1, right["m_min"])
            self.assertGreater(problem["candidates"], len(intervals))
            self.assertLessEqual(problem["kernels"], problem["candidates"])
        text = self.tune("--dry-run", expect=OK).out
        self.assertIn("3 problems, ", text)
        self.assertIn("to compile", text)
        self.assertFalse(self.cache.exists())
        self.assertEqual([], list(self.dir.glob("tuned*")))

    def test_of_the_benchmark_it_covers_the_intervals_that_are_listed(self):
        words = ("--dry-run", "--json", "--shapes", SOURCE_DIR / "configs/bench/h200-anchor.json")
        document = self.kiln("tune", "--config", CONFIG, *words, expect=OK).json
        self.assertEqual(65, sum(len(p["intervals"]) for p in document["problems"]))
        for problem in document["problems"]:
            self.assertEqual("", problem["error"])
            for interval in problem["intervals"]:
                self.assertLessEqual(interval["m_min"], interval["measured_m"])
                self.assertLessEqual(interval["measured_m"], interval["m_max"])

    def test_shards_share_the_problems(self):
        names = []
        for index in (1, 2):
            document = self.tune("--dry-run", "--json", "--shard", f"{index}/2", expect=OK).json
            names += [p["name"] for p in document["problems"]]
        self.assertEqual(["a", "b", "c"], sorted(names))

    def test_compile_compiles_each_candidate_once(self):
        words = ("--dry-run", "--compile", "--json", "--jobs", "3")
        config = self.small()
        document = self.tune(*words, config=config, env=self.fake(), expect=OK).json
        count = sum(p["kernels"] for p in document["problems"])
        self.assertGreater(count, 3)
        self.assertEqual((count, 0), (document["compiled"], document["failed"]))
        programs = self.compiled_programs()
        self.assertEqual((count, count), (len(programs), len(set(programs))))
        self.tune(*words, config=config, env=self.fake(), expect=OK)
        self.assertEqual(count, len(self.compiled_programs()))

    def test_without_a_gpu_measuring_is_refused(self):
        result = self.tune(env={"CUDA_VISIBLE_DEVICES": ""})
        self.assertEqual(NO_DEVICE, result.code, str(result))

    def test_what_is_wrong_is_said_with_its_place(self):
        for changes, part in (({"axis": 1}, 'unknown key "axis"'), ({"format": 2}, "format"),
                              ({"axes": {}}, "axes"), ({"measuring": {"repeats": 0}},
                                                       "measuring.repeats")):
            result = self.tune("--dry-run", config=self.small(**changes), expect=USAGE)
            self.assertIn(part, result.err)
        self.assertIn("--cover must be", self.tune("--cover", "some", expect=USAGE).err)
        self.assertIn("--shard must be", self.tune("--shard", "0/2", expect=USAGE).err)
        self.assertIn("--dry-run", self.tune("--compile", expect=USAGE).err)

    def test_a_problem_that_cannot_be_computed_does_not_stop_the_others(self):
        shapes = self.shapes(("a", 512, 512), ("bad", 1001, 512))
        result = self.tune("--dry-run", shapes=shapes, expect=FAILURE)
        self.assertIn("n must be a multiple of 8", result.out)

    def test_the_schema_has_the_keys_of_the_shipped_file(self):
        document = json.loads(CONFIG.read_text())
        self.assertLessEqual(set(document), set(SCHEMA["properties"]))
        for part in ("machine", "axes", "constraints", "intervals", "measuring"):
            self.assertEqual(set(document[part]), set(SCHEMA["properties"][part]["properties"]))


class OverTheFakeDriver(CliCase):
    """A GPU on which each launch takes 1 ms, and an interval without one a quarter of that."""

    def setUp(self):
        super().setUp()
        document = json.loads(CONFIG.read_text())
        document["constraints"]["max_candidates"] = 2
        document["axes"].update(stages=[0], raster_group=[0, 1])
        document["intervals"] = {"upper": [16, 128], "cover": "listed"}
        document["measuring"].update(final_rounds=2, final_repeats=1, flush_mb=128)
        self.config = self.write("tune.json", document)
        self.problems = self.shapes(
            {"name": "a", "n": 512, "k": 512, "m": [1, 100]},
            {"name": "b", "n": 512, "k": 1024, "m": [100], "layout": "grouped_masked",
             "groups": 4},
            {"name": "c", "n": 768, "k": 512, "m": [1], "scaling": "1d1d", "out": "f32",
             "accumulate": True})
        self.table = self.dir / "tuned.json"
        self.journal = self.dir / "tuned.json.journal"

    def words(self, *words):
        return ("tune", "--config", self.config, "--shapes", self.problems, "--cache", self.cache,
                "--out", self.table, "--jobs", "2", *words)

    def environment_of(self, results="right", **variables):
        return self.fake(LD_LIBRARY_PATH=FAKE_CUDA_DIR, FAKE_CUDA_RESULTS=results, **variables)

    def tune(self, *words, expect=OK, **variables):
        return self.kiln(*self.words(*words), expect=expect,
                         env=self.environment_of(**variables))

    def plan(self):
        """The programs of all candidates."""
        self.kiln(*self.words("--dry-run", "--compile"), env=self.fake(), expect=OK)
        programs = self.compiled_programs()
        shutil.rmtree(self.cache)
        return programs

    def entries(self):
        return json.loads(self.table.read_text())["entries"]

    def test_the_table_is_one_that_an_engine_takes(self):
        done = self.tune()
        self.assertEqual("", done.err)  # no bar where there is no terminal
        self.assertIn("a m=100: ", done.out)
        self.assertIn("0 of 4 choices changed", done.out)
        self.assertEqual([("dense", 2), ("dense", 1), ("grouped_masked", 1)],
                         [(e["layout"], len(e["intervals"])) for e in self.entries()])
        for entry in self.entries():
            for interval in entry["intervals"]:
                self.assertEqual(750, interval["us"])
                self.assertEqual(750, interval["runner_up_us"])
                self.assertEqual(2, interval["samples"])
        explained = self.kiln("explain", "--m", 100, "--n", 512, "--k", 512, "--sfa", "row",
                              "--arch", "sm_90a", "--sms", 132, "--json", env={"KILN_TUNED": str(self.table)}, expect=OK)
        self.assertIn("exact entry", explained.out)
        self.assertIn(str(self.table)[-40:], explained.out)

    def test_the_document_has_the_results(self):
        document = self.tune("--json").json
        self.assertEqual(["a", "a", "b", "c"], [r["name"] for r in document["results"]])
        self.assertEqual({"name", "m", "tile", "us", "current_tile", "current_us", "noise_us",
                          "measured", "hopeless", "rejected"}, set(document["results"][0]))
        self.assertEqual(0, document["unfinished"])

    def test_a_wrong_result_is_never_in_the_table(self):
        done = self.tune(results="none", expect=FAILURE)
        self.assertIn("tiles passed, the first because: the result is wrong", done.err)
        self.assertEqual([], self.entries())

    def test_a_killed_run_goes_on_where_it_ended(self):
        self.tune()
        whole, table = self.journal.read_text(), self.table.read_text()
        lines = whole.splitlines(keepends=True)
        self.journal.unlink()
        self.table.unlink()
        process = self.start(*self.words(), env=self.environment_of())
        while not self.journal.exists() or self.journal.read_bytes().count(b"\n") < 5:
            self.assertIsNone(process.poll(), "it ended before it could be killed")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = self.journal.read_text()
        self.assertLess(len(before.splitlines()), len(lines))
        done = self.tune()
        self.assertIn(" measurements are in ", done.out)
        self.assertEqual(whole, self.journal.read_text())
        self.assertTrue(self.journal.read_text().startswith(before[:before.rindex("\n") + 1]))
        self.assertEqual(table, self.table.read_text())

    def test_a_spent_budget_leaves_a_table_and_the_next_run_goes_on(self):
        # A kernel that is given up after the budget: its interval is the only one.
        first = next(p for p in self.plan() if "n512_k512" in p)
        done = self.tune("--budget", 1, "--timeout", 1, FAKE_NVRTC_HANG=first)
        self.assertIn("3 problems are unfinished", done.out)
        self.assertIn("did not finish within 1 s", done.out)
        self.assertEqual([1], [len(e["intervals"]) for e in self.entries()])
        self.assertNotIn("unfinished", self.tune().out)
        self.assertEqual([2, 1, 1], [len(e["intervals"]) for e in self.entries()])

    def test_without_a_compiler_nothing_is_recorded(self):
        self.assertIn("KILN_NO_COMPILE", self.tune(KILN_NO_COMPILE="1", expect=MISS).err)
        self.assertEqual(1, len(self.journal.read_text().splitlines()))
        self.tune()

    def test_another_configuration_does_not_go_on_with_the_journal(self):
        self.tune()
        self.config.write_text(self.config.read_text().replace('"patience": 16', '"patience": 9'))
        self.assertIn("another config", self.tune(expect=USAGE).err)

    def test_a_table_that_cannot_be_written_is_refused_before_the_work(self):
        done = self.tune("--out", self.dir / "none" / "t.json", "--journal", self.journal,
                         expect=USAGE)
        self.assertIn("--out", done.err)
        self.assertFalse(self.journal.exists())


class OnTheGpu(GpuCase):

    def test_every_layout_is_tuned_with_right_results_and_plausible_times(self):
        shapes = self.shapes(
            {"name": "dense", "n": 2048, "k": 2048, "m": [1, 512], "sfa": "m"},
            {"name": "contiguous", "n": 1024, "k": 1024, "m": [300], "groups": 4,
             "layout": "grouped_contiguous"},
            {"name": "masked", "n": 1024, "k": 1024, "m": [100], "groups": 6,
             "layout": "grouped_masked"},
            {"name": "weights", "n": 1024, "k": 1024, "m": [512], "groups": 4,
             "layout": "grouped_k", "out": "f32", "accumulate": True})
        words = ("tune", "--config", CONFIG, "--shapes", shapes, "--cache", self.cache,
                 "--out", self.dir / "t.json", "--json")
        results = self.kiln(*words, expect=OK).json["results"]
        self.assertEqual(5, len(results))
        for result in results:
            self.assertGreaterEqual(result["measured"], 10, result)
            self.assertTrue(1 < result["us"] < 200, result)
            # The default choice passes its checks, and the model behind it is not far off.
            self.assertTrue(result["us"] <= result["current_us"] < 3 * result["us"], result)
        self.assertEqual(results, self.kiln(*words, expect=OK).json["results"])  # by the journal


class Merge(CliCase):

    def table(self, name, *entries, **changes):
        document = {
            "format": 1, "gpu": {"name": "NVIDIA H200", "num_sms": 132}, "cuda": "13.0",
            "driver": "13.0", "library": "0.1.0", "date": "2026-01-01", "method": "m",
            "entries": list(entries), **changes
        }
        return self.write(name, document)

    @staticmethod
    def entry(n, *bounds, us=10.0):
        intervals = [{
            "m_min": low, "m_max": high, "tile": "128x128/2x1/s4/c1x1/r8", "measured_m": high,
            "us": us
        } for low, high in bounds]
        return {"layout": "dense", "scaling": "1d2d", "n": n, "k": 512, "a": "e4m3", "b": "e4m3",
                "out": "bf16", "sfa": "row", "accumulate": False, "intervals": intervals}

    def merge(self, *files, expect=OK):
        return self.kiln("tune", "merge", *files, "--out", self.dir / "out.json", expect=expect)

    def merged(self):
        text = (self.dir / "out.json").read_text()
        return text, json.loads(text)

    def test_the_order_of_the_parts_does_not_matter(self):
        a = self.table("a.json", self.entry(512, (0, 16)), self.entry(4096, (0, 16)))
        b = self.table("b.json", self.entry(1024, (0, 16)), date="2026-02-01")
        self.merge(a, b)
        text, document = self.merged()
        self.assertEqual([512, 1024, 4096], [e["n"] for e in document["entries"]])
        self.assertEqual("2026-02-01", document["date"])
        self.assertEqual(3, sum(line.startswith('    {"layout"') for line in text.splitlines()))
        self.merge(b, a)
        self.assertEqual(text, self.merged()[0])
        self.merge(self.dir / "out.json")
        self.assertEqual(text, self.merged()[0])

    def test_of_two_the_better_evidence_stays_and_it_is_said(self):
        a = self.table("a.json", self.entry(512, (0, 16)))
        b = self.table("b.json", self.entry(512, (0, 16), (17, 64), us=12.0))
        for files in ((a, b), (b, a)):
            result = self.merge(*files)
            self.assertIn("n=512", result.err)
            self.assertEqual(2, len(self.merged()[1]["entries"][0]["intervals"]))

    def test_parts_of_other_machines_and_broken_files_are_refused(self):
        a = self.table("a.json", self.entry(512, (0, 16)))
        other = self.table("b.json", gpu={"name": "NVIDIA H200", "num_sms": 114})
        self.assertIn("num_sms", self.merge(a, other, expect=USAGE).err)
        illegal = self.entry(512, (0, 16))
        illegal["intervals"][0]["tile"] = "128x128/2x1/s32/c1x1/r8"
        for entry in (self.entry(512, (16, 0)), self.entry(512), illegal, {}, 1):
            self.merge(a, self.table("b.json", entry), expect=USAGE)
        text = a.read_text()
        for length in range(0, len(text), 41):
            self.merge(self.write("b.json", text[:length]), expect=USAGE)
        self.assertFalse((self.dir / "out.json").exists())


if __name__ == "__main__":
    sys.exit(harness.run())
