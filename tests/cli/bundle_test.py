"""kiln cache export, import, merge, diff and stats: kernels that travel between machines."""

import hashlib
import os
import shutil
import subprocess
import sys

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, MISS, OK, TARGET, USAGE
import harness

CONSUMER = os.environ["KILN_TEST_FROZEN_CONSUMER"]
FROZEN = 8  # KILN_ERROR_FROZEN


class BundleCase(CliCase):
    X, Y = ("x", 512, 512), ("y", 768, 256)

    def warm(self, cache, *problems, **variables):
        self.kiln("warm", "--shapes", self.shapes(*problems), *TARGET, "--cache", cache,
                  env=self.fake(**variables), expect=OK)

    def export_words(self, cache, out, *problems):
        what = ("--shapes", self.shapes(*problems), *TARGET) if problems else ("--all",)
        return ("cache", "export", *what, "--cache", cache, "--out", out)

    def export(self, cache, name, *problems, env=None):
        """A bundle of these problems, or of all that is there."""
        out = self.dir / name
        self.kiln(*self.export_words(cache, out, *problems), env=env or self.fake(), expect=OK)
        return out

    def warmed(self, name, *problems, **variables):
        self.warm(self.dir / "scratch", *problems, **variables)
        out = self.export(self.dir / "scratch", name, *problems)
        shutil.rmtree(self.dir / "scratch")
        return out

    def entries(self, cache):
        return sorted(path.parent.name + path.stem for path in cache.glob("v1/??/*.kiln"))

    def cache_json(self, action, *words, expect=OK, **options):
        return self.kiln("cache", action, *words, "--json", expect=expect, **options).json


class Export(BundleCase):

    def test_the_bytes_depend_on_the_kernels_alone(self):
        first, second = self.dir / "one", self.dir / "two"
        self.warm(first, self.X, self.Y)
        self.warm(second, self.Y, ("z", 256, 256))
        self.warm(second, self.X)
        bundle = self.export(first, "first.kilnb", self.X, self.Y)
        other = self.export(second, "second.kilnb", self.Y, self.X)
        self.assertEqual(bundle.read_bytes(), other.read_bytes())
        self.assertEqual(bundle.read_bytes(), self.export(first, "all.kilnb").read_bytes())
        self.assertNotEqual(bundle.read_bytes(), self.export(second, "more.kilnb").read_bytes())

    def test_the_shapes_choose_exactly_what_warm_would_make(self):
        self.warm(self.cache, self.X, self.Y)
        out = self.dir / "x.kilnb"
        document = self.cache_json(*self.export_words(self.cache, out, self.X)[1:],
                                   env=self.fake())
        self.warm(self.dir / "only", self.X)
        self.assertEqual(self.entries(self.dir / "only"), [e["key"] for e in document["entries"]])
        data = out.read_bytes()
        self.assertEqual((len(data), hashlib.sha256(data).hexdigest()),
                         (document["bytes"], document["digest"]))
        text = self.kiln(*self.export_words(self.cache, out, self.X), env=self.fake(),
                         expect=OK).out
        self.assertIn(f"sha256 {document['digest']}\n", text)

    def test_a_missing_kernel_is_named_and_nothing_is_written(self):
        self.warm(self.cache, self.X)
        out = self.dir / "bundle"
        result = self.kiln(*self.export_words(self.cache, out, self.X, self.Y), "--json",
                           env=self.fake(), expect=MISS)
        self.assertTrue(result.json["missing"])
        for kernel in result.json["missing"]:
            self.assertIn("n=768 k=256", kernel["kernel"])
            self.assertIn(kernel["kernel"], result.err)
        self.assertIn("kiln warm", result.err)
        self.assertFalse(out.exists())

    def test_damaged_entries_are_left_out_and_named(self):
        self.warm(self.cache, self.X)
        victim = sorted(self.cache.glob("v1/??/*.kiln"))[0]
        victim.write_bytes(victim.read_bytes()[:-1])
        document = self.cache_json("export", "--all", "--cache", self.cache, "--out",
                                   self.dir / "bundle")
        self.assertEqual([str(victim)], [s["path"] for s in document["skipped"]])
        self.assertEqual(len(self.entries(self.cache)) - 1, len(document["entries"]))

    def test_wrong_command_lines_are_refused(self):
        self.warm(self.cache, self.X)
        out = ("--out", self.dir / "bundle", "--cache", self.cache)
        for words, part in (((*out,), "--shapes is missing"),
                            (("--all", "--arch", "sm_90a", *out), "exclude each other"),
                            (("--all", "--casts", *out), "--all and --casts exclude each other"),
                            (("--all", "--cache", self.cache), "--out is missing"),
                            (("--all", "--cache", self.dir / "no", *out[:2]), "cannot be read"),
                            (("--all", "--out", self.dir / "no/bundle", *out[2:]), "--out")):
            self.assertIn(part, self.kiln("cache", "export", *words, expect=USAGE).err)


class Import(BundleCase):

    def test_what_is_imported_hits_without_a_compiler(self):
        bundle = self.warmed("bundle", self.X, self.Y)
        document = self.cache_json("import", bundle, "--cache", self.cache)
        self.assertEqual((self.entries(self.cache), [], []),
                         (document["added"], document["present"], document["conflicting"]))
        self.kiln("cache", "verify", "--cache", self.cache, expect=OK)
        self.kiln("warm", "--shapes", self.shapes(self.X, self.Y), *TARGET, "--cache", self.cache,
                  env={"KILN_NVRTC": "/nonexistent", "KILN_NO_COMPILE": "1"}, expect=OK)
        again = self.cache_json("import", bundle, "--cache", self.cache)
        self.assertEqual(([], document["added"]), (again["added"], again["present"]))
        # And out again, the same bytes.
        self.assertEqual(bundle.read_bytes(), self.export(self.cache, "again").read_bytes())

    def test_the_digest_pins_the_file(self):
        bundle = self.warmed("bundle", self.X)
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        wrong = hashlib.sha256(b"other").hexdigest()
        refused = self.kiln("cache", "import", bundle, "--digest", wrong, "--cache", self.cache,
                            expect=USAGE)
        self.assertIn(digest, refused.err)
        self.assertFalse(self.cache.exists())
        self.assertIn("64 hex digits",
                      self.kiln("cache", "import", bundle, "--digest", "12", expect=USAGE).err)
        self.kiln("cache", "import", bundle, "--digest", digest.upper(), "--cache", self.cache,
                  expect=OK)

    def test_a_truncated_or_damaged_bundle_is_one_error_and_changes_nothing(self):
        good = self.warmed("bundle", self.X).read_bytes()
        middle = bytearray(good)
        middle[len(good) // 2] ^= 1
        for data in (good[:-1], good[:100], b"", good + b"\0", bytes(middle), b"text" * 100):
            bad = self.write("bad", data)
            result = self.kiln("cache", "import", bad, "--cache", self.cache, expect=USAGE)
            self.assertEqual(1, result.err.count("kiln cache: "), result.err)
            self.assertIn(str(bad), result.err)
            self.assertFalse(self.cache.exists())
        os.mkfifo(self.dir / "pipe")
        for path in (self.dir / "pipe", self.dir, self.dir / "missing"):
            self.kiln("cache", "import", path, "--cache", self.cache, expect=USAGE, timeout=20)

    def test_another_kernel_under_the_key_stays_and_is_named(self):
        bundle = self.warmed("bundle", self.X)
        other = self.different(bundle)
        self.kiln("cache", "import", other, "--cache", self.cache, expect=OK)
        before = [path.read_bytes() for path in sorted(self.cache.glob("v1/??/*.kiln"))]
        result = self.kiln("cache", "import", bundle, "--cache", self.cache, "--json",
                           expect=FAILURE)
        self.assertEqual(1, len(result.json["conflicting"]))
        self.assertIn(result.json["conflicting"][0], result.err)
        self.assertEqual(before,
                         [path.read_bytes() for path in sorted(self.cache.glob("v1/??/*.kiln"))])

    @staticmethod
    def different(bundle):
        """The bundle with one cubin changed and every digest made right again."""
        data = bytearray(bundle.read_bytes())
        manifest = int.from_bytes(data[-64:-56], "little")
        offset = int.from_bytes(data[manifest + 64:manifest + 72], "little")
        length = int.from_bytes(data[manifest + 72:manifest + 80], "little")
        entry = data[offset:offset + length]
        cubin = int.from_bytes(entry[128 + 24 + 8:128 + 24 + 16], "little")
        entry[cubin + 8] ^= 1
        entry[224:256] = hashlib.sha256(bytes(entry[:224] + entry[256:])).digest()
        data[offset:offset + length] = entry
        data[manifest + 32:manifest + 64] = hashlib.sha256(bytes(entry)).digest()
        data[-32:] = hashlib.sha256(bytes(data[:-32])).digest()
        path = bundle.with_name("different")
        path.write_bytes(data)
        return path

    def test_an_untrusted_cache_is_refused(self):
        bundle = self.warmed("bundle", self.X)
        self.cache.mkdir()
        self.cache.chmod(0o777)
        self.assertIn("untrusted",
                      self.kiln("cache", "import", bundle, "--cache", self.cache,
                                expect=FAILURE).err)
        self.assertEqual([], self.entries(self.cache))


class MergeAndDiff(BundleCase):

    def test_a_merge_has_the_kernels_of_all_and_the_order_does_not_matter(self):
        x, y = self.warmed("x", self.X), self.warmed("y", self.Y)
        both = self.warmed("both", self.X, self.Y)
        first = self.cache_json("merge", x, y, x, "--out", self.dir / "first")
        self.cache_json("merge", both, y, "--out", self.dir / "second")
        self.assertEqual(both.read_bytes(), (self.dir / "first").read_bytes())
        self.assertEqual(both.read_bytes(), (self.dir / "second").read_bytes())
        self.assertEqual([0, 0, first["files"][0]["added"]], [f["same"] for f in first["files"]])
        self.assertEqual(first["digest"], hashlib.sha256(both.read_bytes()).hexdigest())

    def test_a_conflict_writes_nothing_unless_the_first_is_to_stay(self):
        x = self.warmed("x", self.X)
        other = Import.different(x)
        out = self.dir / "out"
        refused = self.kiln("cache", "merge", x, other, "--out", out, "--json", expect=FAILURE)
        key, = refused.json["files"][1]["conflicting"]
        self.assertIn(key, refused.err)
        self.assertFalse(out.exists())
        self.kiln("cache", "merge", x, other, "--out", out, "--keep-first", expect=OK)
        self.assertEqual(x.read_bytes(), out.read_bytes())
        found = self.cache_json("diff", x, other, expect=FAILURE)
        self.assertEqual([key], [entry["key"] for entry in found["conflicting"]])
        self.assertIn(f"! {key[:12]}  dense", self.kiln("cache", "diff", x, other,
                                                        expect=FAILURE).out)

    def test_bundles_and_directories_are_compared(self):
        self.warm(self.cache, self.X)
        x, both = self.export(self.cache, "x"), self.warmed("both", self.X, self.Y)
        count = len(self.entries(self.cache))
        self.assertEqual(count, self.cache_json("diff", x, self.cache)["same"])
        found = self.cache_json("diff", self.cache, both, expect=FAILURE)
        self.assertEqual(([], [], count),
                         (found["only_first"], found["conflicting"], found["same"]))
        self.assertTrue(found["only_second"])
        for entry in found["only_second"]:
            self.assertIn("n=768 k=256", entry["kernel"])
        text = self.kiln("cache", "diff", both, x, expect=FAILURE).out
        self.assertEqual(len(found["only_second"]),
                         sum(line.startswith("- ") for line in text.splitlines()))

    def test_wrong_files_and_words_are_refused(self):
        text = self.write("text", "not a bundle" * 50)
        self.assertIn("not a bundle of Kiln",
                      self.kiln("cache", "diff", text, text, expect=USAGE).err)
        self.assertIn("two bundles", self.kiln("cache", "diff", text, expect=USAGE).err)
        self.assertIn("one FILE", self.kiln("cache", "import", expect=USAGE).err)
        self.assertIn("is missing", self.kiln("cache", "merge", "--out", text, expect=USAGE).err)
        self.kiln("cache", "merge", text, "--out", self.dir / "out", expect=USAGE)
        self.assertFalse((self.dir / "out").exists())


class Stats(BundleCase):

    def test_the_layers_and_the_directory_are_counted_in_the_order_of_a_lookup(self):
        system = self.dir / "system"
        self.warm(system, self.X)
        self.warm(self.cache, self.Y, FAKE_NVRTC_VERSION="12.9")
        victim = sorted(self.cache.glob("v1/??/*.kiln"))[0]
        victim.write_bytes(victim.read_bytes()[:-1])
        env = {"KILN_CACHE_PATH": f"{system}:{self.dir / 'missing'}"}
        rows = self.cache_json("stats", "--cache", self.cache, env=env)["directories"]
        self.assertEqual(["layer", "layer", "directory"], [row["role"] for row in rows])
        count = len(self.entries(system))
        self.assertEqual((count, count, {}, {"NVRTC 13.0": count}, 1),
                         tuple(rows[0][k] for k in ("entries", "good", "bad", "compilers",
                                                    "toolchains")))
        self.assertEqual((0, "unusable"), (rows[1]["entries"], rows[1]["state"]))
        self.assertEqual({"truncated": 1}, rows[2]["bad"])
        self.assertEqual({"NVRTC 12.9": rows[2]["good"]}, rows[2]["compilers"])
        text = self.kiln("cache", "stats", "--cache", self.cache, env=env, expect=OK).out
        self.assertEqual(4, len(text.splitlines()))


class FrozenCase(BundleCase):
    """A service against the shared library, frozen, over the fake driver, with no NVRTC."""

    def consume(self, *words, expect=OK, **variables):
        env = self.environment(LD_LIBRARY_PATH=FAKE_CUDA_DIR, KILN_NVRTC="/nonexistent",
                               KILN_CACHE_DIR=self.cache, **variables)
        done = subprocess.run([CONSUMER, *map(str, words)], env=env, text=True, timeout=120,
                              capture_output=True, check=False)
        self.assertEqual(expect, done.returncode, done.stderr)
        return done.stderr if expect else [int(word) for word in done.stdout.split()]


class OnAMachineWithOnlyTheDriver(FrozenCase):

    def test_a_bundle_made_without_a_gpu_gives_no_miss(self):
        bundle = self.warmed("bundle", self.X)
        self.kiln("cache", "import", bundle, "--cache", self.cache,
                  env={"KILN_NVRTC": "/nonexistent"}, expect=OK)
        count = len(self.entries(self.cache))
        self.assertEqual([17, count, 0, 0, count, 0], self.consume(512, 512))
        message = self.consume(768, 256, expect=FROZEN)
        self.assertRegex(message, r"key [0-9a-f]{64}")
        self.assertIn("kiln cache import", message)

    def test_a_bundle_in_a_read_only_layer_serves_as_well(self):
        system = self.dir / "system"
        bundle = self.warmed("bundle", self.X)
        self.kiln("cache", "import", bundle, "--cache", system, expect=OK)
        count = len(self.entries(system))
        for path in [system, *system.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {path: path.stat().st_mtime_ns for path in [system, *system.rglob("*")]}
        self.assertEqual([17, count, 0, 0, 0, count],
                         self.consume(512, 512, KILN_CACHE_PATH=system))
        self.assertEqual(before, {path: path.stat().st_mtime_ns
                                  for path in [system, *system.rglob("*")]})
        self.assertEqual([], self.entries(self.cache))
        for path in [system, *system.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)

    def test_a_damaged_entry_of_a_bundle_s_cache_is_an_error_and_is_replaced_by_an_import(self):
        bundle = self.warmed("bundle", self.X)
        self.kiln("cache", "import", bundle, "--cache", self.cache, expect=OK)
        victim = sorted(self.cache.glob("v1/??/*.kiln"))[0]
        victim.write_bytes(b"garbage")
        self.consume(512, 512, expect=FROZEN)
        self.kiln("cache", "import", bundle, "--cache", self.cache, expect=OK)
        self.assertEqual(0, self.consume(512, 512)[2])


class Casts(FrozenCase):
    """What --casts adds: kiln_quantize, and kiln run --check, where nothing may be compiled."""
    CASTS = 36  # that kiln_quantizer_create() accepts: the consumer tries all combinations
    PROBLEMS = ({"name": "dense", "n": 256, "k": 256, "m": [64]},
                {"name": "columns", "n": 256, "k": 256, "m": [64], "a": "e5m2", "sfa": "m"},
                {"name": "sum", "n": 256, "k": 256, "m": [64], "out": "f32", "accumulate": True},
                {"name": "masked", "n": 256, "k": 256, "m": [64], "layout": "grouped_masked",
                 "groups": 4},
                {"name": "gradient", "n": 256, "k": 256, "m": [64], "layout": "grouped_k",
                 "groups": 4, "out": "f32"})

    def delivered(self, env, *words, problems=PROBLEMS):
        """Warms, exports and imports into the cache of the service; returns the kernels."""
        shapes = self.shapes(*problems)
        built, bundle = self.dir / "built", self.dir / "bundle"
        self.kiln("warm", "--shapes", shapes, *TARGET, *words, "--cache", built, env=env,
                  expect=OK)
        document = self.cache_json("export", "--shapes", shapes, *TARGET, *words, "--cache", built,
                                   "--out", bundle, env=env)
        shutil.rmtree(built)
        self.kiln("cache", "import", bundle, "--cache", self.cache,
                  env={"KILN_NVRTC": "/nonexistent"}, expect=OK)
        return [entry["kernel"] for entry in document["entries"]]

    def accept(self, expect, shapes):
        """kiln run --check as the acceptance test of a service."""
        return self.kiln("run", "--shapes", shapes, "--check", "--repeat", 1, "--json", "--cache",
                         self.cache, expect=expect,
                         env={"LD_LIBRARY_PATH": FAKE_CUDA_DIR, "KILN_NVRTC": "/nonexistent",
                              "KILN_NO_COMPILE": "1"}).json["results"]

    def test_a_frozen_engine_has_every_cast(self):
        self.delivered(self.fake(), "--casts")
        self.assertEqual([self.CASTS, self.CASTS, 0, 0, self.CASTS, 0], self.consume("casts"))

    def test_without_them_it_misses_and_says_what_to_do(self):
        self.delivered(self.fake())
        message = self.consume("casts", expect=FROZEN)
        self.assertRegex(message, r"quantize .*\(key [0-9a-f]{64}\)")
        self.assertIn("`kiln warm --casts`", message)

    def test_those_of_the_real_compiler_are_complete(self):
        self.require_nvrtc()
        only = ({"name": "only", "n": 256, "k": 256},)
        kernels = self.delivered({}, "--casts", problems=only)
        self.assertEqual(self.CASTS, sum(kernel.startswith("quantize ") for kernel in kernels))
        self.assertEqual([self.CASTS, self.CASTS, 0, 0, self.CASTS, 0], self.consume("offline"))
        self.kiln("cache", "verify", "--cache", self.cache, expect=OK)
        # A machine that may not compile can say so by itself, and one that may finds no difference.
        words = ("warm", "--shapes", self.shapes(*only), *TARGET, "--casts", "--cache", self.cache)
        self.kiln(*words, env={"KILN_NVRTC": "/nonexistent", "KILN_NO_COMPILE": "1"}, expect=OK)
        document = self.kiln(*words, "--json", env={"KILN_VERIFY": "1"}, expect=OK).json
        self.assertEqual(len(kernels), document["summary"]["hits"])

    def test_every_problem_of_the_file_can_be_checked_where_nothing_may_be_compiled(self):
        kernels = self.delivered(self.fake(), "--casts")
        references = [kernel for kernel in kernels if kernel.startswith("check: reference ")]
        self.assertEqual(4, len(references), references)  # "dense" and "masked" share one
        # No kernel is missing: each is launched, and does nothing on this driver.
        for result in self.accept(FAILURE, self.shapes(*self.PROBLEMS)):
            self.assertEqual(("", False), (result["error"], result["check"]["passed"]), result)

    def test_without_casts_no_problem_can_be_checked(self):
        self.delivered(self.fake())
        for result in self.accept(MISS, self.shapes(*self.PROBLEMS)):
            self.assertIn("is not in the cache", result["error"])
            self.assertIn("kiln warm --casts", result["error"])

    def test_an_export_takes_them_when_asked_and_only_then(self):
        shapes = self.shapes(self.X)
        words = ("export", "--shapes", shapes, *TARGET, "--cache", self.cache, "--out",
                 self.dir / "bundle")
        self.warm(self.cache, self.X)
        gemms = self.entries(self.cache)
        missing = self.kiln("cache", *words, "--casts", "--json", env=self.fake(), expect=MISS)
        self.assertEqual(self.CASTS + 2, len(missing.json["missing"]))
        self.assertIn('"kiln warm --casts"', missing.err)
        self.kiln("warm", "--shapes", shapes, *TARGET, "--casts", "--cache", self.cache,
                  env=self.fake(), expect=OK)
        plain = self.cache_json(*words, env=self.fake())
        self.assertEqual(gemms, [entry["key"] for entry in plain["entries"]])
        every = self.cache_json(*words, "--casts", env=self.fake())
        self.assertEqual(self.entries(self.cache), [entry["key"] for entry in every["entries"]])


if __name__ == "__main__":
    sys.exit(harness.run())
