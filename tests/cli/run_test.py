"""kiln run: tables, documents and exit codes over the fake driver, real numbers on a GPU."""

import sys

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, GpuCase, MISS, NO_DEVICE, OK, SOURCE_DIR, USAGE
import harness

PROBLEM = ("--m", 64, "--n", 256, "--k", 256, "--repeat", 1)
KEYS = {
    "name", "problem", "m", "tile", "reason", "registers", "smem_bytes", "spill_bytes", "us",
    "best_us", "repeat", "tflops", "gb_per_s", "roofline_us", "roofline_percent", "check", "error"
}
GROUPED_KEYS = {"skew", "group_sizes", "launch_m", "launch_k"}

# Every layout, form of groups and scaling that is not plain dense, as problems of a shapes file.
GROUPED = [{"name": f"p{index}", "groups": 6, **fields} for index, fields in enumerate((
    {"layout": "grouped_contiguous"},
    {"layout": "grouped_contiguous", "alignment": 1, "sfa": "m"},
    {"layout": "grouped_contiguous", "alignment": 64, "group_form": "labels"},
    {"layout": "grouped_contiguous", "accumulate": True},
    {"layout": "grouped_masked"},
    {"layout": "grouped_masked", "sfa": "m", "out": "f32", "accumulate": True},
    {"layout": "grouped_k", "out": "f32", "accumulate": True},
    {"layout": "grouped_k", "group_form": "packed"},
    {"scaling": "1d1d", "groups": 1},
    {"scaling": "1d1d", "groups": 1, "accumulate": True},
    {"scaling": "1d1d", "groups": 1, "out": "f32", "accumulate": True},
))]


class OverTheFakeDriver(CliCase):
    """A GPU on which launches succeed, take 1 ms and do nothing."""

    def run_fake(self, *words, expect=OK, **variables):
        return self.kiln("run", *words, "--cache", self.cache, expect=expect,
                         env=self.fake(LD_LIBRARY_PATH=FAKE_CUDA_DIR, **variables))

    def test_the_document_has_its_keys_and_the_arithmetic_is_right(self):
        document = self.run_fake(*PROBLEM, "--json").json
        self.assertEqual({"device", "num_sms", "peak_tflops", "peak_gb_per_s", "results"},
                         set(document))
        self.assertEqual(("Fake H200", 132), (document["device"], document["num_sms"]))
        result, = document["results"]
        self.assertEqual(KEYS, set(result))
        self.assertEqual((1000, 1000, 1, None, ""),
                         tuple(result[k] for k in ("us", "best_us", "repeat", "check", "error")))
        self.assertAlmostEqual(2 * 64 * 256 * 256 / 1e-3 / 1e12, result["tflops"])
        moved = 64 * 256 + 256 * 256 + 4 * (64 * 2 + 2 * 2) + 2 * 64 * 256
        self.assertAlmostEqual(moved / 1e-3 / 1e9, result["gb_per_s"])
        bounds = (2 * 64 * 256 * 256 / document["peak_tflops"] / 1e6,
                  moved / document["peak_gb_per_s"] / 1e3)
        self.assertAlmostEqual(max(bounds), result["roofline_us"])
        self.assertAlmostEqual(result["roofline_us"] / 10, result["roofline_percent"])

    def test_a_kernel_that_does_nothing_fails_the_check(self):
        result = self.run_fake(*PROBLEM, "--check", "--json", expect=FAILURE).json["results"][0]
        self.assertFalse(result["check"]["passed"])
        self.assertRegex(
            self.run_fake(*PROBLEM, "--check", expect=FAILURE).out, r"(?m)WRONG [0-9.e+-]+$")

    def test_every_layout_of_the_operands_is_launched(self):
        for flags in (("--a", "e5m2"), ("--b", "e5m2"), ("--out", "f32"),
                      ("--out", "f32", "--accumulate"), ("--sfa", "m"), ("--tile", "128x64/2x1/s4"),
                      ("--sms", 8), ("--seed", 7), ("--device", 0)):
            result = self.run_fake(*PROBLEM, *flags, "--json").json["results"][0]
            self.assertEqual("", result["error"], flags)
        self.assertEqual(
            "128x64/2x1/s4/c1x1/r8",
            self.run_fake(*PROBLEM, "--tile", "128x64/2x1/s4", "--json").json["results"][0]["tile"])
        self.run_fake("--m", 0, "--n", 256, "--k", 256, "--repeat", 1, "--check")

    def test_every_layout_and_form_of_groups_is_launched(self):
        shapes = self.shapes(*({"n": 256, "k": 256, "m": [0, 100], **p} for p in GROUPED))
        results = self.run_fake("--shapes", shapes, "--skew", "zipf", "--repeat", 1,
                                "--json").json["results"]
        self.assertEqual([""] * 2 * len(GROUPED), [result["error"] for result in results])

    def test_the_document_of_a_grouped_problem_says_what_was_drawn(self):
        words = ("--layout", "grouped_contiguous", "--groups", 6, "--alignment", 64, *PROBLEM)
        result, = self.run_fake(*words, "--json").json["results"]
        self.assertEqual(KEYS | GROUPED_KEYS, set(result))
        self.assertEqual(("ends", 6, 64), tuple(result["problem"][key] for key in
                                                ("group_form", "groups", "alignment")))
        sizes = result["group_sizes"]
        self.assertEqual(("uniform", 64, 256, 6), (result["skew"], result["m"], result["launch_k"],
                                                   len(sizes)))
        self.assertTrue(all(45 <= size <= 83 for size in sizes), sizes)
        self.assertEqual(sum(-(-size // 64) * 64 for size in sizes), result["launch_m"])
        self.assertAlmostEqual(2 * sum(sizes) * 256 * 256 / 1e-3 / 1e12, result["tflops"])
        moved = sum(sizes) * 256 + 6 * 256 * 256 + 4 * (sum(sizes) * 2 + 6 * 2 * 2)
        self.assertAlmostEqual((moved + 2 * sum(sizes) * 256) / 1e-3 / 1e9, result["gb_per_s"])

        skewed, = self.run_fake(*words, "--skew", "zipf", "--json").json["results"]
        self.assertEqual((6 * 64, 1, "zipf"), (sum(skewed["group_sizes"]),
                                               skewed["group_sizes"].count(0), skewed["skew"]))
        other, = self.run_fake(*words, "--seed", 2, "--json").json["results"]
        self.assertNotEqual(sizes, other["group_sizes"])
        masked, = self.run_fake("--layout", "grouped_masked", "--groups", 6, "--max-m", 100,
                                *PROBLEM, "--json").json["results"]
        self.assertEqual((100, sizes), (masked["launch_m"], masked["group_sizes"]))
        k_groups, = self.run_fake("--layout", "grouped_k", "--groups", 6, *PROBLEM,
                                  "--json").json["results"]
        self.assertEqual(sum(k_groups["group_sizes"]), k_groups["launch_k"])
        self.assertTrue(all(size in (256, 384) for size in k_groups["group_sizes"]))

    def test_a_shapes_file_is_one_table(self):
        shapes = self.shapes({"name": "first", "n": 256, "k": 256, "m": [1, 64]},
                             {"name": "second", "n": 512, "k": 256, "m": [3]},
                             {"name": "third", "n": 512, "k": 256, "m": [3, 70], "groups": 5,
                              "layout": "grouped_masked"})
        lines = self.run_fake("--shapes", shapes, "--repeat", 1).out.splitlines()
        self.assertRegex(lines[0], r"^Fake H200, 132 SMs; peak ")
        self.assertEqual(
            [["first", "-", "1", "256"], ["first", "-", "64", "256"], ["second", "-", "3", "512"],
             ["third", "5", "3", "512"], ["third", "5", "70", "512"]],
            [line.split()[:4] for line in lines[2:]])

    def test_a_bad_problem_of_a_file_is_reported_and_the_rest_is_run(self):
        shapes = self.shapes({"name": "ragged", "n": 257, "k": 256, "m": [1]},
                             {"name": "good", "n": 256, "k": 256, "m": [1]})
        result = self.run_fake("--shapes", shapes, "--repeat", 1, "--json", expect=FAILURE)
        bad, good = result.json["results"]
        self.assertIn("n must be a multiple of 8", bad["error"])
        self.assertEqual("", good["error"])
        self.assertIn("ragged M = 1: n must be", result.err)

    def test_operands_that_cannot_fit_are_refused_before_anything_is_allocated(self):
        for m, n, k in ((2**31 - 512, 2**31 - 512, 2**31 - 512), (2**31 - 512, 256, 256)):
            result = self.run_fake("--m", m, "--n", n, "--k", k, "--repeat", 1, expect=FAILURE)
            self.assertIn("the operands take", result.err)
            self.assertIn("128.0 GiB", result.err)
        for layout, m in (("grouped_contiguous", 2**20), ("grouped_masked", 2**29), ("grouped_k",
                                                                                     2**30)):
            result = self.run_fake("--layout", layout, "--groups", 1024, "--m", m, "--n",
                                   2**31 - 512, "--k", 2**20, "--repeat", 1, expect=FAILURE)
            self.assertIn("or fewer groups", result.err)

    def test_a_miss_where_compiling_is_not_allowed_is_4(self):
        result = self.run_fake(*PROBLEM, "--json", KILN_NO_COMPILE="1", expect=MISS)
        self.assertIn("KILN_NO_COMPILE", result.err)
        self.assertEqual([], self.compiled_programs())

    def test_what_the_gpu_does_not_have_is_refused(self):
        self.assertIn("132", self.run_fake(*PROBLEM, "--sms", 133, expect=USAGE).err)
        self.assertIn("9", self.run_fake(*PROBLEM, "--device", 9, expect=NO_DEVICE).err)


class OnTheSimulator(CliCase):
    """Real kernels on a model of the GPU: real results, no times."""

    def simulate(self, *words, expect=OK, **variables):
        return self.kiln("run", "--device", "sim", *words, "--cache", self.cache, expect=expect,
                         env=variables)

    def test_every_layout_is_right(self):
        for problem in (
            ("--m", 130, "--n", 136, "--k", 400),
            ("--m", 65, "--n", 72, "--k", 272, "--scaling", "1d1d", "--out", "f32", "--accumulate"),
            ("--layout", "grouped_contiguous", "--groups", 4, "--m", 40, "--n", 72, "--k", 272),
            ("--layout", "grouped_masked", "--groups", 4, "--m", 40, "--n", 72, "--k", 272),
            ("--layout", "grouped_k", "--groups", 3, "--m", 65, "--n", 72, "--k", 128),
        ):
            with self.subTest(problem):
                result, = self.simulate(*problem, "--json").json["results"]
                self.assertTrue(result["check"]["passed"], result)
                self.assertEqual((None, None, ""), tuple(result[k] for k in ("us", "tflops", "error")))
                self.assertEqual(KEYS, set(result) - GROUPED_KEYS)

    def test_the_table_says_that_there_are_no_times(self):
        out = self.simulate("--m", 64, "--n", 64, "--k", 128, "--schedules", 2).out
        self.assertRegex(out, r"(?m)^simulated Hopper, 8 SMs; results alone, no times$")
        self.assertRegex(out, r"(?m) ok [0-9.e+-]+$")

    def test_a_large_problem_is_refused_with_the_limit_and_what_to_do(self):
        result = self.simulate("--m", 4096, "--n", 4096, "--k", 4096, expect=FAILURE)
        self.assertRegex(result.err, r"at most 2\.15e\+09 multiply-adds, got 6\.87e\+10: use a smaller M")

    def test_flags_of_the_other_kind_of_device_are_refused(self):
        problem = ("--m", 64, "--n", 64, "--k", 128)
        self.assertIn("use --schedules", self.simulate(*problem, "--repeat", 3, expect=USAGE).err)
        err = self.kiln("run", *problem, "--schedules", 3, expect=USAGE).err
        self.assertIn("--schedules belongs to --device sim", err)

    def test_its_kernels_are_kept_apart_from_cubins_and_need_no_compiler_again(self):
        problem = ("--m", 64, "--n", 64, "--k", 128)
        missing = self.simulate(*problem, expect=FAILURE, CXX="/no/such/compiler").err
        self.assertIn("install g++ 11 or newer, or set CXX", missing)
        self.simulate(*problem)
        self.simulate(*problem, CXX="/no/such/compiler")
        self.assertFalse(self.cache.exists())
        self.assertTrue(self.cache.with_name(self.cache.name + "-sim").is_dir())


class OnTheGpu(GpuCase):

    def test_problems_of_every_kind_pass_the_check_in_plausible_time(self):
        for flags in ((), ("--a", "e5m2"), ("--out", "f32"), ("--out", "f32", "--accumulate"),
                      ("--sfa", "m"), ("--sms", 16)):
            for m in (1, 65, 4096):
                document = self.kiln("run", "--m", m, "--n", 2112, "--k", 7168, *flags, "--check",
                                     "--repeat", 5, "--json", "--cache", self.cache, expect=OK).json
                result, = document["results"]
                self.assertTrue(result["check"]["passed"], result)
                self.assertTrue(1 <= result["roofline_percent"] <= 105, result)
                self.assertLessEqual(result["best_us"], result["us"])

    def test_every_layout_and_form_of_groups_passes_the_check(self):
        shapes = self.shapes(*({"n": 4104, "k": 1040, "m": [1, 100, 1000], **p} for p in GROUPED))
        groups = ("--layout", "grouped_masked", "--groups", 6, "--max-m", 4096)
        for words in (("--shapes", shapes), ("--shapes", shapes, "--skew", "zipf"),
                      (*groups, "--m", 100, "--n", 4104, "--k", 1040)):
            document = self.kiln("run", *words, "--check", "--repeat", 2, "--json", "--cache",
                                 self.cache, expect=OK).json
            for result in document["results"]:
                self.assertTrue(result["check"]["passed"], result)
                self.assertEqual(0, result["check"]["stray_rows"])

    def test_the_same_seed_gives_the_same_difference_and_another_gives_another(self):

        def difference(seed):
            return self.kiln("run", "--m", 128, "--n", 512, "--k", 512, "--check", "--repeat", 1,
                             "--seed", seed, "--json", "--cache", self.cache,
                             expect=OK).json["results"][0]["check"]["max_abs_error"]

        self.assertEqual(difference(1), difference(1))
        self.assertNotEqual(difference(1), difference(2))

    def test_a_shipped_file_runs_whole(self):
        document = self.kiln("run", "--shapes", SOURCE_DIR / "configs/shapes/qwen3-235b-a22b.json",
                             "--check", "--repeat", 3, "--json", "--cache", self.cache,
                             expect=OK).json
        self.assertTrue(all(result["check"]["passed"] for result in document["results"]))


if __name__ == "__main__":
    sys.exit(harness.run())
