"""kiln tune: its configuration, the dry run, and putting tables together."""

import json
import sys

from harness import CliCase, FAILURE, NO_DEVICE, OK, SOURCE_DIR, USAGE
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
        document = self.tune("--dry-run", "--json", expect=OK).json
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
        self.assertIn("to compile", text)
        self.assertFalse(self.cache.exists())
        self.assertEqual([], list(self.dir.glob("tuned*")))

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
