"""Help texts, exit codes and command lines that are wrong."""

import os
import re
import subprocess
import sys

from harness import CLI, CliCase, NO_DEVICE, OK, TARGET, USAGE
import harness

COMMANDS = [
    "warm", "run", "bench", "tune", "tune merge", "explain", "cache list", "cache verify",
    "cache prune", "cache stats", "cache export", "cache import", "cache merge", "cache diff",
    "doctor", "version"
]
VARIABLES = [
    "KILN_CACHE_DIR", "KILN_CACHE_PATH", "KILN_CHECK_GROUPS", "KILN_LOG_LEVEL", "KILN_NO_COMPILE",
    "KILN_NVRTC", "KILN_TUNED", "KILN_VERIFY"
]
PROBLEM = ("--m", "128", "--n", "512", "--k", "512")


class Help(CliCase):

    def test_the_top_help_lists_commands_variables_and_exit_codes(self):
        for words in (["--help"], ["-h"], ["help"]):
            text = self.kiln(*words, expect=OK).out
            for command in ("warm", "run", "bench", "tune", "explain", "cache", "doctor",
                            "version"):
                self.assertRegex(text, rf"(?m)^  {command} +\w")
            for variable in VARIABLES:
                self.assertRegex(text, rf"(?m)^  {variable} +\w")
            self.assertRegex(
                text,
                r"Exit codes: 0 success, 1 failure, 2 usage or bad input, 3 no usable device,\n4 ")

    def test_every_command_has_a_help_that_names_each_of_its_flags(self):
        for command in COMMANDS:
            text = self.kiln(*command.split(), "--help", expect=OK).out
            with self.subTest(command=command):
                self.assertTrue(text.startswith(f"kiln {command}: "), text)
                self.assertIn(f"Usage: kiln {command}", text)
                self.assertIn("JSON keys: ", text)
                listed = set(re.findall(r"(?m)^  (--[a-z-]+)", text))
                # An unknown flag is answered by the list of all flags.
                refused = self.kiln(*command.split(), "--no-such-flag", expect=USAGE).err
                accepted = set(
                    re.findall(r"--[a-z-]+",
                               refused.split(" takes ", 1)[1].splitlines()[0]))
                self.assertEqual(accepted, listed)
                self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_the_overview_of_cache_lists_its_actions(self):
        text = self.kiln("cache", "--help", expect=OK).out
        for action in ("list", "stats", "verify", "prune", "export", "import", "merge", "diff"):
            self.assertRegex(text, rf"(?m)^  {action} +\w")

    def test_help_wins_over_missing_flags(self):
        self.kiln("warm", "--jobs", "3", "--help", expect=OK)

    def test_nothing_at_all_is_a_usage_error_with_the_help_on_stderr(self):
        result = self.kiln(expect=USAGE)
        self.assertEqual("", result.out)
        self.assertIn("Commands:", result.err)

    def test_version_is_text_or_json(self):
        document = self.kiln("version", "--json", expect=OK).json
        self.assertEqual({"version", "major", "minor", "patch", "build"}, set(document))
        self.assertEqual(document["version"],
                         f"{document['major']}.{document['minor']}.{document['patch']}")
        self.assertIn(document["version"], self.kiln("version", expect=OK).out)
        self.assertEqual(self.kiln("version").out, self.kiln("--version", expect=OK).out)


class BadCommandLines(CliCase):

    def refuse(self, words, *parts):
        """Exit code 2, one message on stderr with all these parts, and nothing on stdout."""
        result = self.kiln(*words, expect=USAGE)
        self.assertEqual("", result.out)
        for part in parts:
            self.assertIn(part, result.err, str(result))
        self.assertTrue(result.err.startswith("kiln"), result.err)

    def test_an_unknown_command_is_named_with_the_nearest(self):
        self.refuse(["wram"], '"wram"', "did you mean warm?")
        self.refuse(["cache", "prun"], '"prun"', "did you mean prune?")
        self.refuse(["cache"], "an action is missing", "list, stats, verify, prune, export")
        self.refuse(["\x1b[31m"], r"\x1b[31m")

    def test_an_unknown_flag_is_named_with_the_nearest(self):
        self.refuse(["run", "--repat", "3"], '"--repat"', "did you mean --repeat?")
        self.refuse(["run", "--acc"], '"--acc"', "did you mean --accumulate?")
        self.refuse(["warm", "--shape=x"], '"--shape"', "did you mean --shapes?")
        self.refuse(["explain", "--qqqqqqqqqq"], '"--qqqqqqqqqq"', "kiln explain takes --layout")

    def test_a_word_that_is_no_flag_is_refused(self):
        for word in ("128", "-m", "--", "-", ""):
            self.refuse(["run", word], "unexpected word", f'"{word}"')

    def test_a_missing_value_is_refused(self):
        self.refuse(["run", "--m"], "--m needs a value")
        self.refuse(["run", "--m", "--n", "8"], "--m needs a value")
        self.refuse(["run", "--m="], "--m needs a value")
        self.refuse(["run", "--m", ""], "--m needs a value")

    def test_a_switch_with_a_value_is_refused(self):
        self.refuse(["run", "--check=yes"], "--check takes no value", '"yes"')

    def test_a_flag_that_is_given_twice_is_refused(self):
        self.refuse(["run", "--m", "1", "--m", "1"], "--m is given twice")
        self.refuse(["run", "--json", "--json"], "--json is given twice")

    def test_what_is_no_number_in_range_is_refused(self):
        for value in ("x", "1.5", "1e3", "0x10", "1 ", " 1", "+-1", "--1", "-1", "2147483648",
                      "9223372036854775808", "1" * 200, "NaN", "1,000", "１"):
            with self.subTest(value=value):
                part = "--m needs a value" if value.startswith(
                    "--") else "--m must be a whole number from 0 to 2147483136"
                self.refuse(["explain", "--m", value, "--n", "8", "--k", "16", *TARGET], part)
        self.refuse(["warm", "--shapes", "x", *TARGET, "--jobs", "0"],
                    "--jobs must be a whole number from 1 to 256", '"0"')
        self.refuse(["warm", "--shapes", "x", *TARGET, "--timeout", "-5"],
                    "--timeout must be a whole number from 1")
        self.refuse(["warm", "--shapes", "x", "--arch", "sm_90a", "--sms", "1025"], "--sms",
                    "1 to 1024", '"1025"')
        self.refuse(["run", *PROBLEM, "--repeat", "0"], "--repeat", '"0"')
        self.refuse(["run", *PROBLEM, "--seed", "-1"], "--seed", '"-1"')
        self.refuse(["run", *PROBLEM, "--sms", "0"], "--sms", '"0"')
        self.refuse(["cache", "prune", "--max-bytes", "1GB"], "--max-bytes", '"1GB"')

    def test_a_missing_flag_is_named(self):
        self.refuse(["run"], "--m is missing")
        self.refuse(["run", "--m", "1", "--n", "8"], "--k is missing")
        self.refuse(["explain", *PROBLEM], "--arch is missing")
        self.refuse(["explain", *PROBLEM, "--arch", "sm_90a"], "--sms is missing")
        self.refuse(["warm", *TARGET], "--shapes is missing")
        self.refuse(["cache", "prune"], "--max-bytes is missing")

    def test_a_problem_that_breaks_a_rule_is_refused_with_rule_value_and_remedy(self):

        def explain(**flags):
            words = {"m": 128, "n": 512, "k": 512, **flags}
            return ["explain", *TARGET, *(w for k, v in words.items() for w in (f"--{k}", str(v)))]

        self.refuse(explain(n=1001), "n must be a multiple of 8", "1001", "1008")
        self.refuse(explain(k=1000), "k must be a multiple of 16", "1000", "1008")
        self.refuse(explain(n=0), "--n must be a whole number from 1", '"0"')
        self.refuse(explain(a="fp8"), "--a must be one of e4m3, e5m2", '"fp8"')
        self.refuse(explain(b="E4M3"), "--b must be one of e4m3, e5m2", '"E4M3"')
        self.refuse(explain(out="bf61"), "--out must be one of bf16, f32", '"bf61"')
        self.refuse(explain(sfa="col"), "--sfa must be one of row, m", '"col"')
        self.refuse(explain(layout="sparse"), "--layout must be one of dense", '"sparse"')
        self.refuse(explain(scaling="1x1"), "--scaling must be one of 1d2d, 1d1d", '"1x1"')
        self.refuse(explain(scaling="1d1d", sfa="row"), "sfa_major must be m for scaling 1d1d")
        self.refuse(["explain", *PROBLEM, "--arch", "sm_80", "--sms", "132"],
                    "--arch must be sm_90a", '"sm_80"')

    def test_flags_that_do_not_fit_the_layout_are_refused(self):

        def run(layout, *words):
            return ["run", *PROBLEM, "--layout", layout, *words]

        groups = ("--groups", "4")
        for flag, value in (("--groups", 4), ("--group-form", "ends"), ("--skew", "zipf")):
            self.refuse(run("dense", flag, str(value)), f"{flag} belongs to the grouped layouts",
                        "--layout dense", f"leave {flag} out")
        for layout in ("dense", "grouped_masked", "grouped_k"):
            more = groups if layout != "dense" else ()
            self.refuse(run(layout, *more, "--alignment", "64"),
                        "--alignment belongs to grouped_contiguous", layout)
        for layout in ("grouped_contiguous", "grouped_k"):
            self.refuse(run(layout, *groups, "--max-m", "4096"),
                        "--max-m belongs to grouped_masked", layout)
        for layout in ("grouped_contiguous", "grouped_masked", "grouped_k"):
            self.refuse(run(layout), "--groups is missing")
            for count in ("0", "1025", "x"):
                self.refuse(run(layout, "--groups", count),
                            "--groups must be a whole number from 1", f'"{count}"')
            scaling = "1d2d" if layout == "grouped_k" else "1d1d"
            self.refuse(run(layout, *groups, "--scaling", scaling), "scaling must be", layout)
            self.refuse(run(layout, *groups, "--skew", "flat"),
                        "--skew must be one of uniform, zipf", '"flat"')
        for layout, form in (("grouped_contiguous", "rows"), ("grouped_masked", "ends"),
                             ("grouped_k", "labels")):
            self.refuse(run(layout, *groups, "--group-form", form), "group_form must be", layout,
                        form)
        self.refuse(run("grouped_contiguous", *groups, "--alignment", "96"), "a power of two", "96")
        self.refuse(run("grouped_contiguous", *groups, "--alignment", "2048"),
                    "--alignment must be a whole number from 1 to 1024")
        self.refuse(run("grouped_masked", *groups, "--max-m", "165"),
                    "--max-m must be at least 166", "165")
        self.refuse(["run", "--layout", "grouped_contiguous", "--groups", "1024", "--m", "9999999",
                     "--n", "8", "--k", "16"], "all groups together must have at most 2147483136")

    def test_a_tile_that_is_malformed_or_illegal_is_refused(self):
        for tile in ("x", "128", "128x", "128x128/", "128x128/2x1/s4/c2x1/r8/z", "99999999999x128"):
            self.refuse(["explain", *PROBLEM, *TARGET, "--tile", tile], "--tile must look like",
                        tile)
        self.refuse(["explain", *PROBLEM, *TARGET, "--tile", "100x128/1x1/s2"],
                    "block_m must be a multiple of 64")
        self.refuse(["explain", *PROBLEM, *TARGET, "--tile", "128x128/2x1/s32"],
                    "shared memory must be at most")

        self.refuse(["explain", *PROBLEM, *TARGET, "--tile", "-128x128"],
                    "block_m must be a multiple of 64", "-128")

    def test_a_shard_that_is_none_is_refused(self):
        shapes = self.shapes(("a", 512, 512))
        for shard in ("0/4", "5/4", "1", "/4", "1/", "a/b", "-1/4", "1/0", "1/99999", "1/2/3",
                      "1.5/2", "1/18446744073709551617"):
            with self.subTest(shard=shard):
                self.refuse(
                    ["warm", "--shapes", shapes, *TARGET, "--cache", self.cache, "--shard", shard],
                    "--shard must be I/N with 1 <= I <= N", f'"{shard}"')
        self.assertFalse(self.cache.exists())

    def test_flags_that_exclude_each_other_are_refused(self):
        shapes = self.shapes(("a", 512, 512))
        self.refuse(["run", "--shapes", shapes, "--m", "1"], "--shapes and --m exclude each other")
        self.refuse(["run", "--shapes", shapes, "--accumulate"],
                    "--shapes and --accumulate exclude each other")
        for flag in ("--groups", "--max-m", "--alignment"):
            self.refuse(["run", "--shapes", shapes, flag, "4"],
                        f"--shapes and {flag} exclude each other")
        self.refuse(["cache", "prune", "--all", "--max-bytes", "1"],
                    "--max-bytes and --all exclude each other")

    def test_a_bad_environment_variable_is_refused_by_name(self):
        for name, value in (("KILN_LOG_LEVEL", "loud"), ("KILN_NO_COMPILE", "yes"),
                            ("KILN_CHECK_GROUPS", "maybe")):
            result = self.kiln("warm", "--shapes", self.shapes(("a", 512, 512)), *TARGET, "--cache",
                               self.cache, env={**self.fake(), name: value})
            self.assertNotEqual(OK, result.code)
            self.assertIn(name, result.err)
            self.assertIn(value, result.err)

    def test_thousands_of_words_are_refused_and_not_more(self):
        self.refuse(["run", *(["--m", "1"] * 2000)], "--m is given twice")
        self.refuse(["run", "--" + "x" * 100_000], "unknown flag")


class Output(CliCase):

    def test_output_that_cannot_be_written_is_a_failure(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("this system has no /dev/full")
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([CLI, "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
                                  check=False, env=self.environment())
        self.assertEqual(1, done.returncode)
        self.assertIn("writing the output failed", done.stderr)


class WithoutGpu(CliCase):

    def test_run_without_a_driver_exits_with_3_and_says_what_to_do(self):
        # Where there is a driver, nothing hides it from the loader.
        if self.kiln("doctor", "--json").json["driver"]["state"] != "missing":
            self.skipTest("this machine has a CUDA driver")
        for words in (PROBLEM, ("--shapes",
                                harness.SOURCE_DIR / "configs/shapes/deepseek-v3.json")):
            result = self.kiln("run", *words, "--check", "--json", expect=NO_DEVICE)
            self.assertEqual("", result.out)
            self.assertIn("needs an NVIDIA Hopper GPU", result.err)
            self.assertIn("libcuda.so.1 was not found", result.err)
            self.assertIn("install the NVIDIA driver", result.err)


if __name__ == "__main__":
    sys.exit(harness.run())
