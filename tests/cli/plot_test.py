"""tools/plot: pictures of what kiln bench measured. data/bench.json is of its form; its times are
made up."""

import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, OK, SOURCE_DIR, USAGE
import harness

SAMPLE = SOURCE_DIR / "tests/cli/data/bench.json"
PYTHON = os.environ.get("KILN_TEST_PLOT_PYTHON") or sys.executable


class PlotCase(CliCase):

    def plot(self, *words, expect=OK, python=PYTHON):
        done = subprocess.run([python, SOURCE_DIR / "tools/plot", *map(str, words)],
                              env=self.environment(MPLCONFIGDIR=self.dir / "mpl"), text=True,
                              capture_output=True, timeout=300, check=False)
        result = harness.Result(done)
        self.assertEqual(expect, result.code, result)
        self.assertNotIn("Traceback", result.err)
        return result

    def changed(self, change):
        document = json.loads(SAMPLE.read_text())
        change(document)
        return self.write("changed.json", document)


class Pictures(PlotCase):

    def setUp(self):
        super().setUp()
        probe = subprocess.run([PYTHON, "-c", "import matplotlib; print(matplotlib.__version__)"],
                               text=True, capture_output=True, check=False)
        version = tuple(map(int, probe.stdout.split(".")[:2])) if probe.returncode == 0 else (0, 0)
        if version < (3, 6):
            self.skipTest(f"{PYTHON} has no matplotlib 3.6 or newer; tools/check fetches it")

    def texts(self, path):
        """What an SVG says: matplotlib writes each text as a comment before its outlines."""
        parser = xml.etree.ElementTree.XMLParser(
            target=xml.etree.ElementTree.TreeBuilder(insert_comments=True))
        tree = xml.etree.ElementTree.parse(path, parser)
        return {node.text.strip() for node in tree.iter(xml.etree.ElementTree.Comment)}

    def test_the_same_input_gives_the_same_bytes(self):
        for suffix in ("svg", "png"):
            pictures = [self.dir / f"{i}.{suffix}" for i in range(2)]
            for picture in pictures:
                self.plot(SAMPLE, "--out", picture)
            self.assertEqual(pictures[0].read_bytes(), pictures[1].read_bytes())
        width, height = struct.unpack(">II", pictures[0].read_bytes()[16:24])
        self.assertTrue(1200 <= width <= 2400 and 500 <= height <= 2400, (width, height))
        self.assertEqual([], list(self.dir.glob("*.part*")))

    def test_it_shows_every_row_its_ratio_and_the_means(self):
        picture = self.dir / "x.svg"
        self.plot(SAMPLE, "--out", picture)
        texts = self.texts(picture)
        rows = [row for row in json.loads(SAMPLE.read_text())["results"] if "us" in row]
        for row in rows:
            problem = row["problem"]
            self.assertTrue([t for t in texts if f"{row['m']} × {problem['n']} × {problem['k']}" in t],
                            row["name"])
            self.assertIn(f"{row['references'][0]['speedup']:.2f}", texts)
        self.assertIn(f"NVIDIA H200, L2 flush, times by cupti, {len(rows)} rows, 1 more without a time",
                      texts)
        self.assertTrue([t for t in texts if t.startswith("Kiln against DeepGEMM 2.6.1: ")])
        self.assertIn("2141 TFLOPS", texts)

    def test_what_to_compare_with_can_be_chosen(self):
        picture = self.dir / "x.svg"
        self.plot(SAMPLE, "--against", "cublaslt_block", "--against", "cublaslt_tensor", "--out",
                  picture)
        texts = self.texts(picture)
        self.assertTrue([t for t in texts if t.startswith("Kiln against cuBLASLt, block-wise")])
        self.assertIn("cuBLASLt, per tensor", texts)

    def test_two_runs_are_compared_row_by_row(self):

        def slower(document):
            document["results"] = document["results"][:3]
            for row in document["results"]:
                row["us"] *= 2

        picture = self.dir / "x.svg"
        self.plot(SAMPLE, self.changed(slower), "--out", picture)
        texts = self.texts(picture)
        self.assertIn("bench against changed: 2.00×", texts)
        self.assertTrue([t for t in texts if t.endswith("times by cupti, 3 rows, 1 more without a time")])

    def test_what_kiln_bench_writes_can_be_drawn(self):
        out, picture = self.dir / "out.json", self.dir / "x.svg"
        shapes = self.shapes({"name": "a", "n": 256, "k": 256, "m": [64],
                              "references": [{"by": "peer", "us": 1500}]})
        self.kiln("bench", "--shapes", shapes, "--cache", self.cache, "--json", out, "--clock",
                  "events", expect=OK,
                  env=self.fake(LD_LIBRARY_PATH=FAKE_CUDA_DIR, FAKE_CUDA_RESULTS="right"))
        self.plot(out, "--out", picture)
        self.assertIn("Kiln against peer: 2.00×", self.texts(picture))

    def test_a_picture_that_cannot_be_written_is_a_failure(self):
        done = self.plot(SAMPLE, "--out", self.dir / "no" / "x.png", expect=FAILURE)
        self.assertIn("cannot be written: No such file", done.err)


class BadInput(PlotCase):
    """Needs no matplotlib."""

    def refuse(self, change, text, *words):
        done = self.plot(self.changed(change), "--out", self.dir / "x.png", *words, expect=USAGE)
        self.assertIn(text, done.err)
        self.assertEqual([], list(self.dir.glob("x*")))

    def test_the_message_names_the_place(self):

        def put(value, *path):

            def change(document):
                for step in path[:-1]:
                    document = document[step]
                document[path[-1]] = value

            return change

        for value, path, text in (
            (2, ("format",), "format: must be 1"),
            ({}, ("results",), "results: must be a list"),
            ([], ("results",), "no row has a time"),
            (-1, ("results", 0, "us"), "results[0].us: must be a number above 0, got -1"),
            (True, ("results", 0, "flops"), "results[0].flops: must be a number above 0"),
            ("x", ("results", 1, "problem", "layout"), "results[1].problem.layout: must be one of"),
            (float("nan"), ("peak_tflops",), "peak_tflops: must be a number above 0"),
            ("a\nb", ("device",), "device: must be printable text"),
            ([1], ("results", 0, "rivals"), "results[0].rivals: must be an object"),
        ):
            with self.subTest(path=path):
                self.refuse(put(value, *path), text)
        self.refuse(lambda d: d["results"][2].pop("bytes"), "results[2].bytes is missing")

    def test_there_must_be_something_to_compare_with(self):

        def alone(document):
            for row in document["results"]:
                row["references"], row["rivals"] = [], {}

        self.refuse(alone, "has nothing to compare with")
        self.refuse(lambda d: None, "--against 'x'", "--against", "x")

        def renamed(document):
            for row in document["results"]:
                row["name"] += "/other"

        done = self.plot(SAMPLE, self.changed(renamed), "--out", self.dir / "x.png", expect=USAGE)
        self.assertIn("has no row in common", done.err)

    def test_what_is_no_document_is_said_to_be_none(self):
        for content in ("", "{", "[" * 100000, b"\xff"):
            path = self.write("bad.json", content)
            self.assertIn("bad.json: ", self.plot(path, "--out", "x.png", expect=USAGE).err)
        absent = self.plot(self.dir / "absent.json", "--out", "x.png", expect=USAGE)
        self.assertIn("cannot be read", absent.err)

    def test_a_wrong_command_line_is_a_usage_error(self):
        for words, text in (((), "--out"), (("--out", "x.gif"), "must end in .png or .svg"),
                            ((SAMPLE, "--against", "x", "--out", "x.png"), "second file")):
            self.assertIn(text, self.plot(SAMPLE, *words, expect=USAGE).err)


if __name__ == "__main__":
    sys.exit(harness.run())
