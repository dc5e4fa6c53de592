"""kiln warm: what it makes, what it reports, and what a broken compiler costs."""

import collections
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time

from harness import CLI, CliCase, FAILURE, MISS, OK, TARGET
import harness

# Plans are for every M, so each of these is several kernels.
SMALL = (("q_proj", 512, 512), ("o_proj", 768, 256))


class WarmCase(CliCase):

    def warm(self, shapes, *words, expect=None, env=None, cache=None, **options):
        return self.kiln("warm", "--shapes", shapes, *TARGET, "--cache", cache or self.cache,
                         *words, env=env, expect=expect, **options)

    def warm_json(self, shapes, *words, **options):
        return self.warm(shapes, "--json", *words, **options).json

    def plan_of(self, n, k):
        """The plan as kiln explain tells it: (m_min, m_max, tile)."""
        document = self.kiln("explain", "--m", 1, "--n", n, "--k", k, *TARGET, "--json",
                             expect=OK).json
        return [(i["m_min"], i["m_max"], i["tile"]) for i in document["intervals"]]


class WithTheRealCompiler(WarmCase):

    def test_a_second_warm_hits_everything_and_compiles_nothing(self):
        self.require_nvrtc()
        shapes = self.shapes(("only", 256, 256), defaults={"m": [1]})
        first = self.warm_json(shapes, expect=OK)
        count = first["summary"]["kernels"]
        self.assertGreater(count, 1)
        self.assertEqual((0, count, 0), self.counts(first))
        for kernel in first["kernels"]:
            self.assertEqual("compiled", kernel["result"])
            self.assertEqual(0, kernel["spill_bytes"], kernel)
            self.assertTrue(16 <= kernel["registers"] <= 255, kernel)
            self.assertTrue(1024 < kernel["smem_bytes"] <= 232448, kernel)
            self.assertGreater(kernel["cubin_bytes"], 4096)
            self.assertGreater(kernel["compile_ms"], 0)
        second = self.warm_json(shapes, expect=OK)
        self.assertEqual((count, 0, 0), self.counts(second))
        for kernel in first["kernels"] + second["kernels"]:
            del kernel["result"]
        self.assertEqual(first["kernels"], second["kernels"])
        # With nothing to compile, a missing compiler is no obstacle, and neither is a ban.
        self.assertEqual((count, 0, 0),
                         self.counts(self.warm_json(shapes, env={"KILN_NO_COMPILE": "1"},
                                                    expect=OK)))
        self.assertEqual(
            (count, 0, 0),
            self.counts(self.warm_json(shapes, env={"KILN_NVRTC": "/nonexistent"}, expect=OK)))
        self.kiln("cache", "verify", "--cache", self.cache, expect=OK)
        # Compiled again in other processes, byte for byte the same.
        self.assertEqual((count, 0, 0),
                         self.counts(self.warm_json(shapes, env={"KILN_VERIFY": "1"}, expect=OK)))

    @staticmethod
    def counts(document):
        return tuple(document["summary"][key] for key in ("hits", "compiled", "failed"))


class WhatItMakes(WarmCase):

    def test_each_kernel_is_compiled_exactly_once_by_any_number_of_workers(self):
        shapes = self.shapes(*SMALL, ("again", 512, 512))
        document = self.warm_json(shapes, "--jobs", 5, env=self.fake(), expect=OK)
        programs = self.compiled_programs()
        self.assertEqual(len(programs), len(set(programs)))
        self.assertEqual(document["summary"]["kernels"], len(programs))
        self.assertEqual(len(programs), len({kernel["key"] for kernel in document["kernels"]}))
        self.warm(shapes, env=self.fake(), expect=OK)
        self.assertEqual(programs, self.compiled_programs())

    def test_two_warms_at_the_same_time_compile_each_kernel_once_between_them(self):
        shapes = self.shapes(*SMALL)
        words = ("warm", "--shapes", shapes, *TARGET, "--cache", self.cache, "--jobs", 3, "--json")
        running = [self.start(*words, env=self.fake()) for _ in range(3)]
        documents = []
        for process in running:
            out, err = process.communicate(timeout=300)
            self.assertEqual(OK, process.returncode, err)
            documents.append(json.loads(out))
        programs = self.compiled_programs()
        self.assertEqual(len(programs), len(set(programs)))
        self.assertEqual(documents[0]["summary"]["kernels"], len(programs))
        self.assertEqual(len(programs),
                         sum(document["summary"]["compiled"] for document in documents))

    def test_the_kernels_are_those_of_the_plans_and_nothing_else(self):
        document = self.warm_json(self.shapes(*SMALL, ("again", 512, 512)), env=self.fake(),
                                  expect=OK)
        made = {(use["name"], use["m_min"], use["m_max"], kernel["tile"])
                for kernel in document["kernels"]
                for use in kernel["uses"]}
        expected = {(name, *interval)
                    for name, n, k in (*SMALL, ("again", 512, 512))
                    for interval in self.plan_of(n, k)}
        self.assertEqual(expected, made)

    def test_the_shards_cover_everything_exactly_once(self):
        shapes = self.shapes(*SMALL)
        whole = {
            kernel["key"]
            for kernel in self.warm_json(shapes, env=self.fake(), expect=OK)["kernels"]
        }
        for count in (2, 3, len(whole) + 2):
            seen = collections.Counter()
            for index in range(1, count + 1):
                document = self.warm_json(shapes, "--shard", f"{index}/{count}", env=self.fake(),
                                          expect=OK, cache=self.dir / f"shards-{count}")
                self.assertEqual(f"{index}/{count}", document["shard"])
                self.assertEqual(document["summary"]["kernels"], document["summary"]["compiled"])
                seen.update(kernel["key"] for kernel in document["kernels"])
            self.assertEqual(whole, set(seen))
            self.assertEqual({1}, set(seen.values()))

    def test_the_element_types_of_the_file_reach_the_kernels(self):
        shapes = self.shapes({"name": "x", "n": 256, "k": 256, "b": "e4m3"}, defaults={
            "a": "e5m2", "b": "e5m2", "out": "f32", "sfa": "m", "accumulate": True
        })
        kernel = self.warm_json(shapes, env=self.fake(), expect=OK)["kernels"][0]
        self.assertEqual(
            {
                "layout": "dense", "scaling": "1d2d", "n": 256, "k": 256, "a": "e5m2", "b": "e4m3",
                "out": "f32", "sfa": "m", "accumulate": True
            }, kernel["problem"])
        self.assertRegex(self.compiled_programs()[0], "e5m2_e4m3_f32_add_sfa_m")

    def test_plain_lines_say_one_kernel_each_and_the_sum(self):
        shapes = self.shapes(*SMALL)
        result = self.warm(shapes, env=self.fake(), expect=OK)
        lines = result.out.splitlines()
        self.assertEqual("problem N K M tile regs smem spills cubin compile result".split(),
                         lines[0].split())
        kernels = len(self.compiled_programs())
        rows = [
            line for line in lines[1:]
            if re.match(r"(q|o)_proj .* 168 .* 0 B .* ms  compiled$", line)
        ]
        self.assertEqual(kernels, len(rows), result)
        self.assertRegex(lines[-1],
                         rf"^{kernels} kernels: 0 hits, {kernels} compiled, 0 failed; [0-9.]+ s; ")
        self.assertEqual("", result.err)
        again = self.warm(shapes, env=self.fake(), expect=OK).out
        self.assertRegex(again, rf"(?m)^{kernels} kernels: {kernels} hits, 0 compiled, 0 failed; ")

    def test_on_a_terminal_a_bar_is_drawn_and_wiped(self):
        master, slave = pty.openpty()
        env = self.environment(**self.fake(TERM="xterm"))
        words = [CLI, "warm", "--shapes", self.shapes(*SMALL), *TARGET, "--cache", self.cache]
        with subprocess.Popen(list(map(str, words)), env=env, stdin=subprocess.DEVNULL,
                              stdout=slave, stderr=slave) as process:
            os.close(slave)
            seen = b""
            while select.select([master], [], [], 60)[0]:
                try:
                    chunk = os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                seen += chunk
        os.close(master)
        self.assertEqual(OK, process.returncode)
        text = seen.decode()
        self.assertRegex(text, r"\[#+\.*\] \d+/\d+  hits 0, compiled \d+, failed 0")
        self.assertRegex(text.rsplit("\r\x1b[K", 1)[1], r"^\d+ kernels: ")

    def test_the_environment_names_the_directory_when_no_flag_does(self):
        shapes = self.shapes(*SMALL)
        document = self.kiln("warm", "--shapes", shapes, *TARGET, "--json", expect=OK,
                             env=self.fake(KILN_CACHE_DIR=self.dir / "from-env")).json
        self.assertEqual(str(self.dir / "from-env"), document["cache_dir"])
        self.kiln("cache", "verify", "--cache", self.dir / "from-env", expect=OK)
        document = self.kiln("warm", "--shapes", shapes, *TARGET, "--json", env=self.fake(),
                             expect=OK).json
        self.assertEqual(str(self.dir / ".cache/kiln"), document["cache_dir"])

    def test_what_a_read_only_layer_has_is_not_made_again(self):
        shapes = self.shapes(*SMALL)
        self.warm(shapes, env=self.fake(), expect=OK)
        document = self.warm_json(shapes, env=self.fake(KILN_CACHE_PATH=self.cache),
                                  cache=self.dir / "second", expect=OK)
        self.assertEqual(document["summary"]["kernels"], document["summary"]["hits"])


class Casts(WarmCase):
    CASTS, CHECKS = 36, 2  # CHECKS: the fill, and the reference that SMALL's problems share

    def kinds(self, document):
        """The casts, the fill and the references of a report."""
        kernels = [k for k in document["kernels"] if k["problem"] is None]
        return [[k for k in kernels if k["program"].startswith(prefix)]
                for prefix in ("quantize ", "check: fill", "check: reference ")]

    def test_the_gemms_stay_the_same_and_the_others_have_no_problem_and_no_tile(self):
        shapes = self.shapes(*SMALL)
        gemms = self.warm_json(shapes, env=self.fake(), expect=OK)["kernels"]
        document = self.warm_json(shapes, "--casts", env=self.fake(), expect=OK)
        summary = document["summary"]
        self.assertEqual(len(gemms), summary["hits"])
        self.assertEqual(self.CASTS + self.CHECKS, summary["compiled"])
        listed = document["kernels"]
        self.assertEqual([k["key"] for k in gemms], [k["key"] for k in listed[:len(gemms)]])
        self.assertEqual(len(listed), len({kernel["key"] for kernel in listed}))
        self.assertEqual({frozenset(gemms[0])}, {frozenset(kernel) for kernel in listed})
        for kernel in listed[len(gemms):]:
            self.assertEqual((None, None), (kernel["problem"], kernel["tile"]), kernel)
        casts, fills, (reference,) = self.kinds(document)
        self.assertEqual((self.CASTS, 1), (len(casts), len(fills)))
        self.assertEqual([[]] * (self.CASTS + 1), [kernel["uses"] for kernel in casts + fills])
        self.assertEqual(["q_proj", "o_proj"], [use["name"] for use in reference["uses"]])
        again = self.warm_json(shapes, "--casts", env=self.fake(KILN_NO_COMPILE="1"), expect=OK)
        self.assertEqual(len(listed), again["summary"]["hits"])

    def test_the_shards_cover_them_too(self):
        shapes = self.shapes(*SMALL)
        whole = self.warm_json(shapes, "--casts", env=self.fake(), expect=OK)["kernels"]
        seen = collections.Counter()
        for index in (1, 2, 3):
            part = self.warm_json(shapes, "--casts", "--shard", f"{index}/3", env=self.fake(),
                                  expect=OK, cache=self.dir / "parts")
            seen.update(kernel["key"] for kernel in part["kernels"])
            self.assertTrue(any(kernel["problem"] is None for kernel in part["kernels"]))
        self.assertEqual({kernel["key"]: 1 for kernel in whole}, dict(seen))

    def test_plain_lines_have_a_dash_for_what_they_lack(self):
        out = self.warm(self.shapes(*SMALL), "--casts", env=self.fake(), expect=OK).out
        rows = re.findall(r"(?m)^(?:quantize|check:) .* - +- +- +- +168 .* ms  compiled$", out)
        self.assertEqual(self.CASTS + self.CHECKS, len(rows), out)

    def test_one_that_fails_is_named_and_costs_no_other(self):
        shapes = self.shapes(*SMALL)
        result = self.warm(shapes, "--casts", "--json", expect=FAILURE,
                           env=self.fake(FAKE_NVRTC_FAIL="kiln_quantize_f32_e5m2_1x128_m.cu"))
        failed, = (kernel for kernel in result.json["kernels"] if kernel["result"] == "failed")
        self.assertEqual("quantize f32 -> e5m2 1x128 scales=m", failed["program"])
        self.assertIn("kiln warm: quantize f32 -> e5m2 1x128 scales=m: ", result.err)
        healed = self.warm_json(shapes, "--casts", env=self.fake(), expect=OK)
        self.assertEqual(1, healed["summary"]["compiled"])

    def test_they_are_verified_like_gemms(self):
        shapes = self.shapes(*SMALL)
        self.warm(shapes, "--casts", env=self.fake(), expect=OK)
        for victim, program in (("kiln_check_fill", "check: fill"),
                                ("kiln_quantize_f32_e4m3_128x128_row.cu",
                                 "quantize f32 -> e4m3 128x128 scales=row")):
            document = self.warm_json(shapes, "--casts", expect=FAILURE,
                                      env=self.fake(KILN_VERIFY="1", FAKE_NVRTC_OTHER=victim))
            differs, = (k for k in document["kernels"] if k["result"] == "failed")
            self.assertEqual(program, differs["program"])
            self.assertIn("not what its key compiles to", differs["error"])
            self.warm(shapes, "--casts", env=self.fake(KILN_VERIFY="1"), expect=FAILURE)


class WhatGoesWrong(WarmCase):

    def broken(self, how, *words, code=FAILURE, env=None, **variables):
        """Warms SMALL with a compiler that misbehaves on one kernel; returns its report."""
        shapes = self.shapes(*SMALL)
        programs = self.dry_programs(shapes)
        victim = programs[len(programs) // 2]
        variables = {f"FAKE_NVRTC_{how}": victim, **variables}
        document = self.warm_json(shapes, *words, env=self.fake(**variables, **(env or {})),
                                  expect=code)
        failed = [kernel for kernel in document["kernels"] if kernel["result"] == "failed"]
        self.assertEqual(1, len(failed), document["summary"])
        self.assertEqual(len(programs) - 1, document["summary"]["compiled"])
        # The next good call works, and makes just what is missing.
        self.compile_log.unlink()
        healed = self.warm_json(shapes, env=self.fake(), expect=OK)
        self.assertEqual(1, healed["summary"]["compiled"])
        self.assertEqual([victim], self.compiled_programs())
        return failed[0]

    def dry_programs(self, shapes):
        self.warm(shapes, env=self.fake(), expect=OK, cache=self.dir / "dry")
        programs = self.compiled_programs()
        self.compile_log.unlink()
        return programs

    def test_a_compiler_that_crashes_costs_one_kernel(self):
        self.assertIn("ended by signal 11", self.broken("CRASH", "--jobs", 2)["error"])

    def test_a_compiler_that_exits_costs_one_kernel(self):
        self.assertIn("ended by itself with exit code 7", self.broken("EXIT", "--jobs", 1)["error"])

    def test_a_compiler_that_hangs_costs_one_kernel_and_the_timeout(self):
        begin = time.monotonic()
        self.assertIn("did not finish within 2 s",
                      self.broken("HANG", "--timeout", 2, "--jobs", 2)["error"])
        self.assertLess(time.monotonic() - begin, 60)

    def test_a_program_that_is_refused_costs_one_kernel_and_shows_the_log(self):
        error = self.broken("FAIL")["error"]
        for part in ("NVRTC_ERROR_COMPILATION", "error: refused on request",
                     "--gpu-architecture=sm_90a", "kiln_dense"):
            self.assertIn(part, error)

    def test_a_worker_that_is_killed_costs_one_kernel(self):
        shapes = self.shapes(*SMALL)
        programs = self.dry_programs(shapes)
        hanging = self.dir / "compiles.hanging"
        process = self.start("warm", "--shapes", shapes, *TARGET, "--cache", self.cache, "--jobs",
                             2, "--json", env=self.fake(FAKE_NVRTC_HANG=programs[1]))
        line = self.wait_for(lambda: hanging.exists() and hanging.read_text())
        pid = int(line.split()[0])
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        self.assertEqual(FAILURE, process.returncode, err)
        document = json.loads(out)
        self.assertEqual(len(programs) - 1, document["summary"]["compiled"])
        failed, = [kernel for kernel in document["kernels"] if kernel["result"] == "failed"]
        self.assertIn("ended by signal 9", failed["error"])
        self.kiln("cache", "verify", "--cache", self.cache, expect=OK)
        self.assertEqual(1,
                         self.warm_json(shapes, env=self.fake(), expect=OK)["summary"]["compiled"])

    def test_workers_do_not_outlive_a_warm_that_is_killed(self):
        hanging = self.dir / "compiles.hanging"
        process = self.start("warm", "--shapes", self.shapes(*SMALL), *TARGET, "--cache",
                             self.cache, "--jobs", 1, env=self.fake(FAKE_NVRTC_HANG="kiln_dense"))
        # The file is there a moment before its line is.
        line = self.wait_for(lambda: hanging.exists() and hanging.read_text())
        pid = int(line.split()[0])
        process.kill()
        process.communicate(timeout=60)
        self.wait_for(lambda: not self.is_alive(pid))

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        return self.fail("waited for 60 s")

    @staticmethod
    def is_alive(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def test_a_list_with_a_bad_problem_reports_it_and_does_the_rest(self):
        shapes = self.shapes(("good", 512, 512), ("ragged", 1001, 512), ("also_good", 256, 256),
                             {"name": "masked", "n": 512, "k": 512, "groups": 4,
                              "layout": "grouped_masked", "scaling": "1d1d"})
        result = self.warm(shapes, "--json", env=self.fake(), expect=FAILURE)
        document = result.json
        self.assertEqual(["ragged", "masked"],
                         [problem["name"] for problem in document["bad_problems"]])
        self.assertIn("n must be a multiple of 8", document["bad_problems"][0]["error"])
        self.assertIn("scaling must be 1d2d", document["bad_problems"][1]["error"])
        self.assertIn("ragged: n must be a multiple of 8", result.err)
        self.assertEqual({"good", "also_good"},
                         {use["name"] for kernel in document["kernels"] for use in kernel["uses"]})
        self.assertEqual(document["summary"]["kernels"], document["summary"]["compiled"])
        self.assertEqual((2, 0),
                         (document["summary"]["bad_problems"], document["summary"]["failed"]))
        self.assertRegex(
            self.warm(shapes, env=self.fake(), expect=FAILURE).out, "; 2 bad problems; ")

    def test_without_a_compiler_it_says_so_once(self):
        result = self.warm(self.shapes(*SMALL), "--json",
                           env={"KILN_NVRTC": "/nonexistent/libnvrtc.so"}, expect=FAILURE)
        self.assertEqual(1, result.err.count("/nonexistent/libnvrtc.so: does not exist"),
                         result.err)
        self.assertEqual(result.json["summary"]["kernels"], result.json["summary"]["failed"])

    def test_a_compiler_of_an_unsupported_version_is_refused_by_its_version(self):
        for version in ("12.3", "11.8", "14.0"):
            result = self.warm(self.shapes(*SMALL), env=self.fake(FAKE_NVRTC_VERSION=version),
                               expect=FAILURE)
            self.assertIn(f"NVRTC {version}", result.err)
            self.assertIn("12.4", result.err)

    def test_where_compiling_is_not_allowed_missing_kernels_are_listed_and_the_exit_code_is_4(self):
        shapes = self.shapes(*SMALL)
        document = self.warm_json(shapes, env=self.fake(KILN_NO_COMPILE="1"), expect=MISS)
        self.assertEqual(document["summary"]["kernels"], document["summary"]["missing"])
        self.assertEqual({"missing"}, {kernel["result"] for kernel in document["kernels"]})
        self.assertEqual([], self.compiled_programs())
        self.warm(shapes, env=self.fake(), expect=OK)
        self.warm(shapes, env=self.fake(KILN_NO_COMPILE="1"), expect=OK)


class Verifying(WarmCase):

    def test_every_kernel_is_compiled_again_and_those_that_differ_are_named_and_replaced(self):
        shapes = self.shapes(*SMALL)
        first = self.warm_json(shapes, env=self.fake(), expect=OK)
        count = first["summary"]["kernels"]
        self.compile_log.unlink()
        again = self.warm_json(shapes, env=self.fake(KILN_VERIFY="1"), expect=OK)
        self.assertEqual(count, again["summary"]["hits"])
        self.assertEqual(count, len(self.compiled_programs()))
        other = self.fake(KILN_VERIFY="1", FAKE_NVRTC_OTHER=self.compiled_programs()[0])
        result = self.warm(shapes, "--json", env=other, expect=FAILURE)
        self.assertEqual(count - 1, result.json["summary"]["hits"])
        differs, = (kernel for kernel in result.json["kernels"] if kernel["result"] == "failed")
        self.assertIn("not what its key compiles to", differs["error"])
        keys = [kernel["key"] for kernel in first["kernels"]]
        self.assertEqual(1, sum(key in result.err for key in keys), result.err)
        # What that compiler made is stored now, and it agrees with itself.
        self.assertEqual(count, self.warm_json(shapes, env=other, expect=OK)["summary"]["hits"])


class TheCacheDirectory(WarmCase):

    def refuse(self, directory, *parts, **options):
        result = self.warm(self.shapes(*SMALL), cache=directory, env=self.fake(), expect=FAILURE,
                           **options)
        self.assertEqual("", result.out)
        for part in parts:
            self.assertIn(part, result.err, str(result))
        self.assertEqual([], self.compiled_programs())

    def test_one_that_others_can_write_is_refused(self):
        for mode in (0o770, 0o777, 0o702, 0o1777):
            directory = self.dir / f"mode-{mode:o}"
            directory.mkdir()
            directory.chmod(mode)
            self.refuse(directory, "untrusted", str(directory))
            self.assertEqual([], list(directory.iterdir()))

    def test_a_symbolic_link_is_refused(self):
        (self.dir / "real").mkdir(mode=0o700)
        (self.dir / "link").symlink_to(self.dir / "real")
        self.refuse(self.dir / "link", "untrusted", str(self.dir / "link"))

    def test_what_is_no_directory_is_refused(self):
        self.refuse(self.write("file", "text"), "unusable", str(self.dir / "file"))
        self.refuse("/proc/kiln-cannot-be-made", "/proc/kiln-cannot-be-made")
        self.refuse("/dev/null/x", "/dev/null/x")

    def test_one_that_cannot_be_written_is_refused(self):
        who = self.unprivileged()
        directory = self.dir / "read-only"
        directory.mkdir()
        if who:
            os.chown(directory, who["user"], who["group"])
        directory.chmod(0o500)
        shapes = self.shapes(*SMALL)
        shapes.chmod(0o644)
        env = self.fake() if os.access(os.path.dirname(harness.FAKE_NVRTC), os.R_OK) else {}
        result = self.warm(shapes, cache=directory, env=env, expect=FAILURE, **who)
        self.assertIn(str(directory), result.err)
        self.assertRegex(result.err, "read-only|unusable|cannot be written|could not be stored",
                         str(result))
        self.assertEqual([], list(directory.iterdir()))

    def test_none_at_all_is_refused(self):
        result = self.kiln("warm", "--shapes", self.shapes(*SMALL), *TARGET,
                           env=self.fake(KILN_CACHE_DIR=""), expect=FAILURE)
        self.assertIn("no cache directory", result.err)
        self.assertIn("--cache DIR", result.err)

    def test_one_that_is_made_belongs_to_this_user_alone(self):
        self.warm(self.shapes(*SMALL), env=self.fake(), expect=OK)
        for path in (self.cache, *self.cache.rglob("*")):
            self.assertEqual(0, path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path)

    def test_one_whose_disk_is_full_is_a_failure_and_not_a_silent_loss(self):
        # A directory in place of a shard: entries for it can never be published.
        shapes = self.shapes(*SMALL)
        keys = [
            kernel["key"]
            for kernel in self.warm_json(shapes, env=self.fake(), expect=OK)["kernels"]
        ]
        other = self.dir / "other"
        (other / "v1").mkdir(parents=True, mode=0o700)
        other.chmod(0o700)
        (other / "v1" / keys[0][:2]).write_text("in the way")
        document = self.warm_json(shapes, env=self.fake(), cache=other, expect=FAILURE)
        lost = [kernel for kernel in document["kernels"] if kernel["result"] == "failed"]
        self.assertEqual(
            [key for key in keys if key[:2] == keys[0][:2]],
            [key for key, kernel in zip(keys, document["kernels"]) if kernel["result"] == "failed"])
        self.assertIn("could not be stored", lost[0]["error"])


if __name__ == "__main__":
    sys.exit(harness.run())
