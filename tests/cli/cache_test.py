"""kiln cache: list, verify and prune on good, damaged and untrusted directories."""

import os
import sys

from harness import CliCase, FAILURE, OK, TARGET, USAGE
import harness


class CacheCase(CliCase):

    def setUp(self):
        super().setUp()
        self.warm_env = self.fake()
        self.warm()

    def warm(self):
        self.kiln("warm", "--shapes", self.shapes(("x", 512, 512)), *TARGET, "--cache", self.cache,
                  env=self.warm_env, expect=OK)

    def cache_json(self, action, *words, expect=OK):
        return self.kiln("cache", action, "--cache", self.cache, "--json", *words,
                         expect=expect).json

    def entries(self):
        return sorted(self.cache.glob("v1/??/*.kiln"))


class List(CacheCase):

    def test_every_entry_is_listed_with_what_it_holds(self):
        document = self.cache_json("list")
        files = self.entries()
        self.assertEqual(len(self.compiled_programs()), len(files))
        self.assertEqual([str(file) for file in files],
                         [str(self.cache / e["path"]) for e in document["entries"]])
        for file, entry in zip(files, document["entries"]):
            self.assertEqual("good", entry["state"])
            self.assertEqual(file.stat().st_size, entry["bytes"])
            self.assertEqual(file.parent.name + file.stem, entry["key"])
            self.assertRegex(entry["kernel"],
                             r"^dense 1d2d n=512 k=512 e4m3 x e4m3 -> bf16 sfa=row tile \d+x\d+")
            self.assertEqual((168, 0, "NVRTC 13.0"),
                             (entry["registers"], entry["spill_bytes"], entry["compiler"]))
        self.assertEqual(sum(file.stat().st_size for file in files), document["total_bytes"])

    def test_the_text_has_a_line_for_each_and_the_sum(self):
        lines = self.kiln("cache", "list", "--cache", self.cache, expect=OK).out.splitlines()
        self.assertEqual(len(self.entries()) + 2, len(lines))
        self.assertRegex(lines[1], r"^[0-9a-f]{12}  dense 1d2d n=512 .* NVRTC 13.0 +168 ")
        self.assertTrue(lines[-1].startswith(f"{len(self.entries())} entries, "))

    def test_the_environment_names_the_directory_when_no_flag_does(self):
        document = self.kiln("cache", "list", "--json", env={"KILN_CACHE_DIR": self.cache},
                             expect=OK).json
        self.assertEqual(len(self.entries()), len(document["entries"]))

    def test_an_empty_directory_has_no_entries(self):
        self.cache = self.dir / "empty"
        self.cache.mkdir(mode=0o700)
        self.assertEqual([], self.cache_json("list")["entries"])
        self.assertEqual([], list(self.cache.iterdir()))


class Verify(CacheCase):

    def verify_bad(self, *bad):
        """Exactly these files are named, and nothing is changed by looking."""
        before = {path: path.lstat().st_mtime_ns for path in self.cache.rglob("*")}
        result = self.kiln("cache", "verify", "--cache", self.cache, "--json", expect=FAILURE)
        document = result.json
        self.assertEqual(sorted(str(path) for path in bad),
                         [str(self.cache / b["path"]) for b in document["bad"]])
        self.assertEqual(document["entries"], document["good"] + len(bad))
        for path in bad:
            self.assertIn(path.name, result.err)
        self.assertEqual(before, {path: path.lstat().st_mtime_ns for path in self.cache.rglob("*")})
        text = self.kiln("cache", "verify", "--cache", self.cache, expect=FAILURE).out
        self.assertIn(f"{document['good']} good, {len(bad)} bad", text)
        return [b["state"] for b in document["bad"]]

    def test_a_good_directory_is_good(self):
        count = len(self.entries())
        document = self.cache_json("verify")
        self.assertEqual((count, count, []),
                         (document["entries"], document["good"], document["bad"]))

    def test_a_flipped_bit_is_named(self):
        victim = self.entries()[0]
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        self.assertEqual(["checksum"], self.verify_bad(victim))

    def test_a_truncated_an_empty_and_an_extended_entry_are_named(self):
        first, second, third = self.entries()[:3]
        first.write_bytes(first.read_bytes()[:-1])
        second.write_bytes(b"")
        third.write_bytes(third.read_bytes() + b"x")
        self.assertEqual(3, len(self.verify_bad(first, second, third)))

    def test_an_entry_under_the_name_of_another_is_named(self):
        first, second = self.entries()[:2]
        first.write_bytes(second.read_bytes())
        self.assertEqual(1, len(self.verify_bad(first)))

    def test_an_entry_that_others_can_write_is_named(self):
        victim = self.entries()[0]
        victim.chmod(0o666)
        self.assertEqual(["untrusted"], self.verify_bad(victim))

    def test_a_damaged_entry_is_made_anew_by_warm_and_then_good(self):
        victim = self.entries()[0]
        victim.write_bytes(b"garbage")
        self.verify_bad(victim)
        self.compile_log.unlink()
        self.warm()
        self.assertEqual(1, len(self.compiled_programs()))
        self.cache_json("verify")

    def test_an_untrusted_directory_is_refused(self):
        self.cache.chmod(0o777)
        for action in ("verify", "list"):
            self.assertIn("untrusted",
                          self.kiln("cache", action, "--cache", self.cache, expect=FAILURE).err)

    def test_a_directory_that_is_not_there_is_bad_input_and_is_not_made(self):
        for action in (["verify"], ["list"], ["prune", "--all"]):
            result = self.kiln("cache", *action, "--cache", self.dir / "missing", expect=USAGE)
            self.assertIn(str(self.dir / "missing"), result.err)
            self.assertFalse((self.dir / "missing").exists())
            file = self.write("file", "text")
            self.assertIn("is not a directory",
                          self.kiln("cache", *action, "--cache", file, expect=USAGE).err)


class Prune(CacheCase):

    def age(self, paths):
        for index, path in enumerate(paths):
            os.utime(path, (1_600_000_000 + index, 1_600_000_000 + index))

    def test_the_oldest_go_until_the_rest_fits(self):
        files = self.entries()
        self.age(files)
        keep = files[len(files) // 2:]
        limit = sum(file.stat().st_size for file in keep)
        document = self.cache_json("prune", "--max-bytes", limit)
        self.assertEqual(keep, self.entries())
        self.assertEqual(
            (len(files) - len(keep), len(keep), limit),
            (document["removed_entries"], document["kept_entries"], document["kept_bytes"]))
        self.cache_json("verify")

    def test_young_entries_stay(self):
        files = self.entries()
        self.assertEqual(0, self.cache_json("prune", "--max-bytes", 0)["removed_entries"])
        self.assertEqual(files, self.entries())

    def test_all_removes_everything_of_any_age(self):
        count = len(self.entries())
        document = self.cache_json("prune", "--all")
        self.assertEqual((count, 0), (document["removed_entries"], document["kept_entries"]))
        self.assertEqual([], self.entries())
        self.warm()
        self.assertEqual(count, len(self.entries()))

    def test_an_untrusted_directory_is_left_alone(self):
        self.cache.chmod(0o777)
        count = len(self.entries())
        self.assertIn(
            "untrusted",
            self.kiln("cache", "prune", "--all", "--cache", self.cache, expect=FAILURE).err)
        self.assertEqual(count, len(self.entries()))


if __name__ == "__main__":
    sys.exit(harness.run())
