"""kiln bench: usage, the table and the document over the fake driver, real numbers on a GPU."""

import json
import sys

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, FAKE_CUPTI, GpuCase, MISS, NO_DEVICE, OK, SOURCE_DIR, USAGE
import harness

ANCHOR = SOURCE_DIR / "configs/bench/h200-anchor.json"
DOCUMENT_KEYS = {
    "format", "kiln", "device", "num_sms", "mode", "clock", "repeat", "seed", "peak_tflops",
    "peak_gb_per_s", "nvml", "cublaslt", "references", "results", "mean_speedups"
}
UNTIMED_KEYS = {"name", "problem", "m", "rivals", "references", "gpu", "check", "error"}
TIMED_KEYS = UNTIMED_KEYS | {
    "launch_m", "launch_k", "group_sizes", "draws", "total", "tile", "reason", "empty_us", "flops", "bytes",
    "roofline_us", "us", "p10_us", "p90_us", "best_us", "samples", "tflops", "gb_per_s",
    "roofline_percent"
}
STATE_KEYS = {"sm_clock_mhz", "power_w", "temperature_c", "throttled"}


class CommandLines(CliCase):

    def test_wrong_ones_are_usage_errors_also_without_a_gpu(self):
        shapes = self.shapes(("a", 256, 256))
        for words, text in (
            ((), "--shapes"),
            (("--shapes", shapes, "--compare", "cublas"), "--compare must be cublaslt"),
            (("--shapes", shapes, "--mode", "cold"), "--mode must be flush, clean or hot"),
            (("--shapes", shapes, "--repeat", 0), "--repeat"),
            (("--shapes", shapes, "--clock", "sun"), "--clock must be auto, cupti or events"),
            (("--shapes", shapes, "--clock", "cupti", "--mode", "hot"), "whose launches overlap"),
            (("--shapes", shapes, "--json", self.dir), "cannot be written"),
            (("--shapes", shapes, "--rows", "zzz"), "selects none of the 1 problems"),
            (("--shapes", shapes, "--rows", ","), "selects none"),
            (("--shapes", shapes, "--host", "--mode", "hot"), "--host"),
            (("--shapes", shapes, "--json", self.dir / "no" / "x.json"), "cannot be written"),
            (("--shapes", self.dir / "absent.json"), "absent.json"),
        ):
            with self.subTest(words=words):
                self.assertIn(text, self.kiln("bench", *words, expect=USAGE).err)

    def test_a_reference_that_is_no_time_names_its_place(self):
        for reference, text in (({"by": "x", "us": 0}, "references[0].us: must be a number"),
                                ({"by": "", "us": 1}, "references[0].by: must be 1 to 96"),
                                ({"us": 1}, '"by" is missing')):
            shapes = self.shapes({"name": "a", "n": 256, "k": 256, "references": [reference]})
            self.assertIn(text, self.kiln("bench", "--shapes", shapes, expect=USAGE).err)

    def test_without_a_driver_it_exits_with_3_and_the_reason(self):
        if self.kiln("doctor", "--json").json["driver"]["state"] != "missing":
            self.skipTest("this machine has a CUDA driver")
        for words in ((), ("--host",)):
            result = self.kiln("bench", "--shapes", ANCHOR, *words, expect=NO_DEVICE)
            self.assertEqual("", result.out)
            self.assertIn("needs an NVIDIA Hopper GPU", result.err)
            self.assertIn("libcuda.so.1 was not found", result.err)


class TheAnchorFile(CliCase):

    def test_it_has_65_problems_each_with_a_time_of_the_peer(self):
        document = json.loads(ANCHOR.read_text())
        self.assertEqual("H200", document["gpu"])
        problems = document["problems"]
        self.assertEqual(65, len(problems))
        for problem in problems:
            self.assertEqual("DeepGEMM 2.6.1", problem["references"][0]["by"])
            self.assertEqual(1, len(problem["m"]), problem["name"])
            # Draws of groups differ, so the time alone says nothing there.
            grouped = problem.get("layout", "dense") != "dense"
            self.assertEqual(grouped, "total" in problem["references"][0], problem["name"])


class FakeCase(CliCase):
    """Over the fake driver, by events unless a test wants another clock."""

    def bench(self, *problems, words=(), results="right", expect=OK, clock="events", gpu=None,
              **variables):
        out = self.dir / "out.json"
        shapes = self.shapes(*problems, **({"gpu": gpu} if gpu else {}))
        words = (*words, "--clock", clock)
        done = self.kiln("bench", "--shapes", shapes, "--cache", self.cache, "--json", out,
                         "--repeat", 3, *words, expect=expect,
                         env=self.fake(LD_LIBRARY_PATH=FAKE_CUDA_DIR, FAKE_CUDA_RESULTS=results,
                                       **variables))
        self.assertEqual([], list(self.dir.glob("out.json.*")))  # nothing beside the file
        return done, json.loads(out.read_text())


class OverTheFakeDriver(FakeCase):
    """A launch takes 1 ms by events, an empty interval 0.25 ms."""

    def test_the_document_has_its_keys_and_the_empty_interval_is_subtracted(self):
        references = [{"by": "peer", "us": 1500}, {"by": "other", "us": 375.0}]
        _, document = self.bench({"name": "a", "n": 256, "k": 256, "m": [64, 65],
                                  "references": references})
        self.assertEqual(DOCUMENT_KEYS, set(document))
        self.assertEqual(("flush", 3, None), tuple(document[k] for k in
                                                   ("mode", "repeat", "cublaslt")))
        first, second = document["results"]
        self.assertEqual(TIMED_KEYS, set(first))
        self.assertEqual((750, 750, 750, 750, 250, 3),
                         tuple(first[k] for k in ("us", "p10_us", "p90_us", "best_us", "empty_us",
                                                  "samples")))
        self.assertAlmostEqual(2 * 64 * 256 * 256 / 750e-6 / 1e12, first["tflops"])
        self.assertAlmostEqual(100 * first["roofline_us"] / 750, first["roofline_percent"])
        self.assertEqual([2, 0.5], [r["speedup"] for r in first["references"]])
        self.assertEqual([], second["references"])
        self.assertEqual({"name": "events", "path": "", "reason": "asked for"},
                         document["clock"])
        self.assertEqual({"before", "after"}, set(first["gpu"]))
        self.assertEqual(STATE_KEYS, set(first["gpu"]["before"]))
        self.assertTrue(first["check"]["passed"])

    def test_mean_speedups_are_geometric_over_a_layout_and_over_all(self):
        def problem(name, us, **fields):
            return {"name": name, "n": 256, "k": 256, "m": [64], **fields,
                    "references": [{"by": "peer", "us": us}]}
        done, document = self.bench(
            problem("a", 1500), problem("b", 375), problem("c", 6000),
            problem("gradient", 750, scaling="1d1d", out="f32", accumulate=True),
            {"name": "alone", "n": 256, "k": 256, "m": [64]})
        means = {layout: (round(mean["geometric_mean"], 6), mean["rows"])
                 for layout, mean in document["mean_speedups"]["peer"].items()}
        self.assertEqual({"dense": (2, 3), "dense 1d1d": (1, 1), "all": (round(2**0.75, 6), 4)},
                         means)
        self.assertRegex(done.out, r"peer +dense +2\.000x +3")

    def test_references_of_another_gpu_are_left_out_and_that_is_said(self):
        row = {"name": "a", "n": 256, "k": 256, "m": [64],
               "references": [{"by": "peer", "us": 1500}]}
        done, document = self.bench(row, gpu="H300")
        self.assertEqual({"gpu": "H300", "used": False}, document["references"])
        self.assertEqual([], document["results"][0]["references"])
        self.assertEqual({}, document["mean_speedups"])
        self.assertIn("the references are of another GPU: H300", done.out)
        self.assertNotIn("reference us", done.out)
        done, document = self.bench(row, gpu="H200")  # the fake driver's GPU is a Fake H200
        self.assertEqual(2, document["results"][0]["references"][0]["speedup"])
        self.assertIn("reference us", done.out)

    def test_an_old_document_stays_whole_until_the_new_one_is(self):
        out = self.write("out.json", "old")
        self.kiln("bench", "--shapes", self.shapes(("a", 256, 256)), "--json", out,
                  expect=NO_DEVICE, env=self.fake(LD_LIBRARY_PATH=self.dir))
        self.assertEqual("old", out.read_text())
        self.assertEqual([out], list(self.dir.glob("out.json*")))

    def test_a_wrong_result_gets_no_time_and_is_a_failure(self):
        done, document = self.bench(("a", 256, 256), expect=FAILURE, results="none")
        self.assertIn("WRONG", done.out)
        for row in document["results"]:
            self.assertEqual(UNTIMED_KEYS, set(row))
            self.assertFalse(row["check"]["passed"])

    def test_launches_back_to_back_are_divided_by_their_number(self):
        _, document = self.bench({"name": "a", "n": 256, "k": 256, "m": [64]},
                                 words=("--mode", "hot"))
        self.assertAlmostEqual((20 * 1000 - 250) / 20, document["results"][0]["us"])

    def test_the_clean_mode_reads_with_a_kernel_of_its_own(self):
        _, document = self.bench({"name": "a", "n": 256, "k": 256, "m": [64]},
                                 words=("--mode", "clean"))
        self.assertEqual(750, document["results"][0]["us"])
        self.assertTrue([p for p in self.compiled_programs() if "32768" in p],
                        self.compiled_programs())

    def groups(self, *words):
        _, document = self.bench({
            "name": "g", "n": 256, "k": 256, "m": [100], "layout": "grouped_masked", "groups": 6,
            "references": [{"by": "peer", "us": 100, "total": 1000}]
        }, words=words)
        row, = document["results"]
        return row

    def test_a_reference_of_other_groups_is_scaled_to_those_drawn(self):
        row = self.groups("--draws", "1")
        reference, = row["references"]
        self.assertEqual((1, sum(row["group_sizes"])), (row["draws"], row["total"]))
        self.assertAlmostEqual(100 * row["total"] / 1000, reference["scaled_us"])
        self.assertAlmostEqual(reference["scaled_us"] / row["us"], reference["speedup"])

    def test_a_row_of_groups_is_the_mean_of_draws_with_the_next_seeds(self):
        draws = [self.groups("--draws", "1", "--seed", str(seed)) for seed in (5, 6, 7)]
        row = self.groups("--seed", "5")
        self.assertEqual((3, draws[0]["group_sizes"]), (row["draws"], row["group_sizes"]))
        self.assertEqual(sum(draw["samples"] for draw in draws), row["samples"])
        for key in ("total", "flops", "bytes", "us"):
            self.assertAlmostEqual(sum(draw[key] for draw in draws) / 3, row[key])
        self.assertNotEqual(draws[0]["total"], draws[1]["total"])

    def test_cublaslt_that_cannot_be_used_is_a_dash_with_a_reason(self):
        done, document = self.bench({"name": "a", "n": 256, "k": 256, "m": [64]},
                                    words=("--compare", "cublaslt"))
        row, = document["results"]
        self.assertEqual({"cublaslt_block", "cublaslt_tensor"}, set(row["rivals"]))
        for name, rival in row["rivals"].items():
            self.assertEqual((None, None), (rival["us"], rival["speedup"]))
            self.assertTrue(rival["reason"])
            self.assertIn(f"- in 1 row: {name}: {rival['reason']}", done.out)

    def test_rows_are_chosen_by_parts_of_their_names(self):
        shapes = [{"name": name, "n": 256, "k": 256, "m": [1]} for name in ("up/1", "down/1", "x")]
        _, document = self.bench(*shapes, words=("--rows", "down,x"))
        self.assertEqual(["down/1", "x"], [row["name"] for row in document["results"]])

    def test_a_bad_problem_is_reported_and_the_rest_is_measured(self):
        done, document = self.bench({"name": "bad", "n": 257, "k": 256, "m": [1]},
                                    {"name": "good", "n": 256, "k": 256, "m": [1]}, expect=FAILURE)
        self.assertIn("bad M = 1: n must be a multiple of 8", done.err)
        self.assertEqual([UNTIMED_KEYS, TIMED_KEYS], [set(row) for row in document["results"]])

    def test_a_miss_where_compiling_is_not_allowed_is_4(self):
        self.bench(("a", 256, 256), expect=MISS, KILN_NO_COMPILE="1")

    def test_the_hosts_costs_are_medians_over_the_rows(self):
        out = self.dir / "out.json"
        shapes = self.shapes(("a", 256, 256), ("b", 512, 256))
        done = self.kiln("bench", "--shapes", shapes, "--host", "--json", out, expect=OK,
                         env=self.fake(LD_LIBRARY_PATH=FAKE_CUDA_DIR, TMPDIR=self.dir))
        host = json.loads(out.read_text())["host"]
        self.assertEqual({"cold_compile", "disk_hit", "launch"}, set(host))
        self.assertEqual(6, host["launch"]["samples"])
        self.assertEqual(host["cold_compile"]["samples"], host["disk_hit"]["samples"])
        self.assertGreater(host["cold_compile"]["us"], 0)
        self.assertIn("cold compile", done.out)
        self.assertEqual([], list(self.dir.glob("kiln-bench-*")))  # the scratch cache is gone


class ByTheProfiler(FakeCase):
    """The fake CUPTI records 0.8 ms for each launch, 0.2 ms after the one before."""

    ROW = {"name": "a", "n": 256, "k": 256, "m": [64]}

    def bench(self, *problems, clock="auto", **options):
        toolkit = FAKE_CUPTI.parents[1]
        return super().bench(*problems, clock=clock, CUDA_HOME=toolkit, **options)

    def test_times_are_those_of_the_kernel_and_nothing_is_subtracted(self):
        done, document = self.bench(self.ROW, {"name": "b", "n": 512, "k": 256, "m": [64]})
        for row in document["results"]:
            self.assertEqual((800, 800, 800, 0, 3), tuple(
                row[k] for k in ("us", "p10_us", "p90_us", "empty_us", "samples")))
        self.assertEqual({"name": "cupti", "path": str(FAKE_CUPTI), "reason": ""},
                         document["clock"])
        self.assertIn(f"by CUPTI ({FAKE_CUPTI})", done.out)

    def test_the_kernel_that_reads_for_the_clean_mode_is_not_in_the_time(self):
        _, document = self.bench(self.ROW, words=("--mode", "clean"))
        self.assertEqual((800, "cupti"), (document["results"][0]["us"], document["clock"]["name"]))

    def test_where_it_does_not_work_events_take_over_and_the_reason_is_given(self):
        for state, reason in (("busy", "MULTIPLE_SUBSCRIBERS"), ("deaf", "recorded 0 of 1")):
            done, document = self.bench(self.ROW, FAKE_CUPTI=state)
            self.assertEqual((750, "events"),
                             (document["results"][0]["us"], document["clock"]["name"]))
            self.assertIn(reason, document["clock"]["reason"])
            self.assertIn(f"times by events, a few us too long for short kernels", done.out)

    def test_asked_for_and_not_there_is_a_failure(self):
        done, document = self.bench(self.ROW, clock="cupti", expect=FAILURE, FAKE_CUPTI="busy")
        self.assertIn("no kernel times from CUPTI", done.err)
        self.assertEqual(UNTIMED_KEYS, set(document["results"][0]))

    def test_overlapping_launches_are_timed_together_by_events(self):
        _, document = self.bench(self.ROW, words=("--mode", "hot"))
        self.assertEqual("events", document["clock"]["name"])


class OnTheGpu(GpuCase):

    def test_every_mode_gives_plausible_times(self):
        for mode in ("flush", "clean", "hot"):
            out = self.dir / f"{mode}.json"
            self.kiln("bench", "--shapes", ANCHOR, "--rows", "dense/4096x7168x2048", "--mode", mode,
                      "--compare", "cublaslt", "--repeat", 5, "--cache", self.cache, "--json", out,
                      expect=OK)
            row, = json.loads(out.read_text())["results"]
            self.assertTrue(1 <= row["roofline_percent"] <= 105, row)


if __name__ == "__main__":
    sys.exit(harness.run())
