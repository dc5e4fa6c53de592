"""kiln explain: the plan of a problem, for machines that are not this one."""

import sys

from harness import CliCase, OK, TARGET
import harness

KEYS = {
    "problem", "m", "plan_m", "arch", "num_sms", "tile", "reason", "m_min", "m_max", "threads",
    "smem_bytes", "output_tiles", "waves", "estimate_us", "rank", "legal_tiles", "intervals",
    "alternatives", "source", "tuned", "default"
}
LARGEST_M = 2**31 - 512


class Explain(CliCase):

    def explain(self, m, *words, n=7168, k=2048, target=TARGET, **options):
        return self.kiln("explain", "--m", m, "--n", n, "--k", k, *target, *words, expect=OK,
                         **options)

    def test_the_intervals_cover_every_m_once_and_the_tile_is_that_of_its_interval(self):
        plans = []
        for m in (0, 1, 63, 64, 65, 128, 129, 1000, 4096, 100_000, LARGEST_M):
            document = self.explain(m, "--json").json
            self.assertEqual(KEYS, set(document))
            self.assertEqual((m, m), (document["m"], document["plan_m"]))
            intervals = document["intervals"]
            self.assertEqual((0, LARGEST_M), (intervals[0]["m_min"], intervals[-1]["m_max"]))
            for left, right in zip(intervals, intervals[1:]):
                self.assertEqual(left["m_max"] + 1, right["m_min"])
                self.assertNotEqual((left["tile"], left["source"]), (right["tile"], right["source"]))
            serving, = [i for i in intervals if i["m_min"] <= m <= i["m_max"]]
            self.assertEqual((serving["m_min"], serving["m_max"], serving["tile"]),
                             (document["m_min"], document["m_max"], document["tile"]))
            self.assertEqual((serving["threads"], serving["smem_bytes"]),
                             (document["threads"], document["smem_bytes"]))
            self.assertIn(document["tile"], document["reason"])
            plans.append(intervals)
        self.assertEqual(1, len({str(plan) for plan in plans}))
        self.assertGreater(len(plans[0]), 2)

    def test_the_numbers_are_those_of_the_tile(self):
        document = self.explain(4096, "--json").json
        block_m, block_n = (int(x) for x in document["tile"].split("/")[0].split("x"))
        self.assertEqual(-(-4096 // block_m) * -(-7168 // block_n), document["output_tiles"])
        self.assertAlmostEqual(document["output_tiles"] / 132, document["waves"])
        estimates = [a["estimate_us"] for a in document["alternatives"]]
        self.assertEqual(sorted(estimates), estimates)
        self.assertNotIn(document["tile"], [a["tile"] for a in document["alternatives"]])
        better = sum(estimate < document["estimate_us"] for estimate in estimates)
        self.assertTrue(1 <= document["rank"] <= document["legal_tiles"])
        self.assertEqual(better == 0, document["rank"] == 1)

    def test_the_number_of_sms_and_the_types_matter(self):
        plans = [
            self.explain(1, "--json", target=("--arch", "sm_90a", "--sms", sms)).json["intervals"]
            for sms in (4, 132)
        ]
        self.assertNotEqual(*plans)
        problem = self.explain(1, "--a", "e5m2", "--out", "f32", "--accumulate", "--sfa", "m",
                               "--json").json["problem"]
        self.assertEqual(
            {
                "layout": "dense", "scaling": "1d2d", "n": 7168, "k": 2048, "a": "e5m2",
                "b": "e4m3", "out": "f32", "sfa": "m", "accumulate": True
            }, problem)

    def test_grouped_problems_are_planned_by_all_rows_or_by_the_expected_rows(self):
        for words, expected in (
            (("grouped_contiguous", "--groups", 32), (128, 4096)),
            (("grouped_contiguous", "--groups", 32, "--alignment", 1, "--group-form", "labels"),
             (100, 3200)),
            (("grouped_masked", "--groups", 32), (100, 100)),
            (("grouped_k", "--groups", 32, "--out", "f32", "--accumulate"), (100, 100)),
        ):
            document = self.explain(100, "--layout", *words, "--json").json
            problem = document["problem"]
            self.assertEqual((words[0], 32), (problem["layout"], problem["groups"]))
            self.assertEqual(words[0] == "grouped_contiguous", "alignment" in problem)
            self.assertEqual((100, expected[1]), (document["m"], document["plan_m"]))
            self.assertTrue(document["m_min"] <= document["plan_m"] <= document["m_max"])
            serving, = [i for i in document["intervals"]
                        if i["m_min"] <= document["plan_m"] <= i["m_max"]]
            self.assertEqual(serving["tile"], document["tile"])
            block_m, block_n = map(int, document["tile"].split("/")[0].split("x"))
            self.assertEqual(32 * -(-100 // block_m) * -(-7168 // block_n),
                             document["output_tiles"])
            self.assertIn(str(expected[1]), self.explain(100, "--layout", *words).out)

    def test_the_layout_decides_what_is_not_said(self):

        def problem(*words):
            document = self.explain(64, *words, "--json").json["problem"]
            return [document.get(key) for key in ("scaling", "sfa", "group_form", "alignment")]

        self.assertEqual(["1d2d", "row", None, None], problem())
        self.assertEqual(["1d1d", "m", None, None], problem("--scaling", "1d1d"))
        groups = ("--groups", 4)
        self.assertEqual(["1d2d", "row", "ends", 128],
                         problem("--layout", "grouped_contiguous", *groups))
        self.assertEqual(["1d2d", "row", "rows", None],
                         problem("--layout", "grouped_masked", *groups))
        self.assertEqual(["1d1d", "m", "ends", None], problem("--layout", "grouped_k", *groups))
        self.assertEqual(["1d1d", "m", "packed", None],
                         problem("--layout", "grouped_k", *groups, "--group-form", "packed"))

    def test_a_given_tile_serves_every_m_and_the_reason_says_whose_it_is(self):
        document = self.explain(128, "--tile", "128x128/2x1/s4", "--json").json
        self.assertEqual("128x128/2x1/s4/c1x1/r8", document["tile"])
        self.assertEqual([(0, LARGEST_M, document["tile"])],
                         [(i["m_min"], i["m_max"], i["tile"]) for i in document["intervals"]])
        self.assertNotEqual(self.explain(128, "--json").json["reason"], document["reason"])

    def test_the_text_marks_the_interval_of_m(self):
        document = self.explain(128, "--json").json
        text = self.explain(128).out
        marked, = [line for line in text.splitlines() if line.startswith(">")]
        self.assertIn(f"{document['m_min']}..{document['m_max']}", marked)
        self.assertIn(document["tile"], marked)
        for interval in document["intervals"]:
            self.assertIn(interval["tile"], text)
        for part in ("problem ", "target    sm_90a, 132 SMs", "why ", "estimate "):
            self.assertIn(part, text)

    # Of no model: the built-in table has nothing like it.
    OWN = {"n": 1000, "k": 1040}
    TUNED_TILE = "64x64/1x1/s8/c1x1/r8"

    def tuned_file(self, n, tile=TUNED_TILE):
        interval = {"m_min": 0, "m_max": 256, "tile": tile, "measured_m": 256, "us": 12.5}
        return self.write("tuned.json", {
            "format": 1, "gpu": {"name": "some GPU", "num_sms": 132}, "cuda": "", "driver": "",
            "library": "", "date": "", "method": "", "entries": [{
                "layout": "dense", "scaling": "1d2d", "n": n, "k": 1040, "a": "e4m3", "b": "e4m3",
                "out": "bf16", "sfa": "row", "accumulate": False, "intervals": [{
                    **interval, "runner_up": "128x128/2x1/s4/c1x1/r8", "runner_up_us": 13.5
                }]
            }]
        })

    def test_it_says_how_well_a_tuned_entry_matches_and_what_the_default_would_be(self):
        default = self.explain(128, "--json", **self.OWN, env={"KILN_TUNED": "off"}).json
        self.assertEqual(("default", "none"), (default["source"], default["tuned"]["match"]))
        self.assertEqual(default["tile"], default["default"]["tile"])
        self.assertEqual(default["estimate_us"], default["default"]["estimate_us"])
        for n, match in ((1000, "exact"), (1008, "nearest"), (2000, "none")):
            env = {"KILN_TUNED": str(self.tuned_file(n))}
            document = self.explain(128, "--json", **self.OWN, env=env).json
            text = self.explain(128, **self.OWN, env=env).out
            self.assertEqual(default["default"], document["default"])
            self.assertIn(f"default   {default['tile']}, estimated at", text)
            self.assertEqual(match, document["tuned"]["match"])
            self.assertIn(env["KILN_TUNED"], document["reason"])
            if match == "none":
                self.assertEqual(default["tile"], document["tile"])
                continue
            self.assertEqual((match, self.TUNED_TILE), (document["source"], document["tile"]))
            self.assertEqual(
                {
                    "match": match, "why": f"{match} entry n={n} k=1040 of {env['KILN_TUNED']}",
                    "us": 12.5, "measured_m": 256, "runner_up": "128x128/2x1/s4/c1x1/r8",
                    "runner_up_us": 13.5
                }, document["tuned"])
            self.assertEqual([match] + ["default"] * (len(document["intervals"]) - 1),
                             [i["source"] for i in document["intervals"]])
            self.assertIn(f"tuned     {match}", text)
            self.assertIn("measured  12.50 us at M 256; next 128x128/2x1/s4/c1x1/r8, 13.50 us",
                          text)
            outside = self.explain(4096, "--json", **self.OWN, env=env).json
            self.assertEqual("default", outside["source"])
            self.assertIn("outside the intervals of the", outside["reason"])
            self.assertNotIn("us", outside["tuned"])

    def test_a_tuned_file_that_cannot_be_used_is_a_warning_and_the_default_choice(self):
        default = self.explain(128, "--json", **self.OWN, env={"KILN_TUNED": "off"}).json
        path = self.tuned_file(1000, tile="256x256/1x1/s32/c1x1/r8")
        result = self.explain(128, "--json", **self.OWN, env={"KILN_TUNED": str(path)})
        self.assertEqual(default["tile"], result.json["tile"])
        self.assertEqual(1, result.err.count("tuned tiles: "))
        self.assertIn("entries[0].intervals[0].tile", result.err)

    def test_batch_invariant_is_one_tile_for_every_m(self):
        document = self.explain(1, "--batch-invariant", "--json").json
        interval, = document["intervals"]
        self.assertEqual((0, LARGEST_M), (interval["m_min"], interval["m_max"]))
        self.assertTrue(document["problem"]["batch_invariant"])
        self.assertEqual(document["tile"],
                         self.explain(9999, "--batch-invariant", "--json").json["tile"])

    def test_neither_compiler_nor_cache_is_touched(self):
        self.explain(128, env=self.fake())
        self.assertEqual([], sorted(self.dir.iterdir()))


if __name__ == "__main__":
    sys.exit(harness.run())
