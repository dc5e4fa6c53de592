"""configs/shapes against its schema, and the schema against the loader."""

import copy
import json
import re
import sys

from harness import CliCase, MISS, SOURCE_DIR, TARGET, USAGE
import harness

SCHEMA = json.loads((SOURCE_DIR / "configs/schema/shapes.schema.json").read_text())
FILES = sorted((SOURCE_DIR / "configs/shapes").glob("*.json"))
GRADIENTS = (".dgrad", ".wgrad")


def resolve(schema):
    if "$ref" not in schema:
        return schema
    target = SCHEMA
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def problems_of(value, schema, place="the document"):
    """What JSON Schema says of a value, for the keywords that shapes.schema.json uses."""
    schema = resolve(schema)
    known = {
        "$schema", "$defs", "title", "description", "type", "additionalProperties", "required",
        "properties", "items", "minItems", "maxItems", "uniqueItems", "minimum", "maximum",
        "maxLength", "pattern", "enum", "const"
    }
    assert set(schema) <= known, f"this test does not know {set(schema) - known}"
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
             "number": (int, float)}
    found = []
    expected = schema.get("type")
    if expected and (not isinstance(value, types[expected]) or
                     expected in ("integer", "number") and isinstance(value, bool)):
        return [f"{place}: no {expected}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: not one of the words")
    if "const" in schema and (value != schema["const"] or isinstance(value, (bool, float))):
        found.append(f"{place}: not {schema['const']}")
    if isinstance(value, dict):
        found += [
            f"{place}: no key {key}" for key in schema.get("required", ()) if key not in value
        ]
        for key, member in value.items():
            if key in schema.get("properties", {}):
                found += problems_of(member, schema["properties"][key], f"{place}.{key}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{place}: unknown key {key}")
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{place}: length")
        if schema.get("uniqueItems") and len({json.dumps(item) for item in value}) != len(value):
            found.append(f"{place}: repeated")
        for index, item in enumerate(value if "items" in schema else ()):
            found += problems_of(item, schema["items"], f"{place}[{index}]")
    elif isinstance(value, str):
        if len(value.encode()) > schema.get(
                "maxLength", 1 << 30) or not re.search(schema.get("pattern", ""), value):
            found.append(f"{place}: text")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{place}: range")
    return found


class ConfigCase(CliCase):

    def loader_accepts(self, document):
        """Loads a file and goes no further: nothing may be compiled."""
        result = self.kiln("warm", "--shapes", self.write("shapes.json", document), *TARGET,
                           "--cache", self.cache, env=self.fake(KILN_NO_COMPILE="1"))
        self.assertNotEqual(0, result.code)
        return result.code != USAGE, result


class SchemaAndLoader(ConfigCase):
    SAMPLE = {
        "$schema": "x",
        "format": 1,
        "model": "x",
        "source": "x",
        "gpu": "x",
        "defaults": {
            "layout": "dense", "scaling": "1d2d", "a": "e4m3", "b": "e5m2", "out": "f32",
            "sfa": "m", "accumulate": False, "m": [1, 2], "group_form": "labels", "groups": 4,
            "alignment": 64
        },
        "problems": [{
            "name": "a", "comment": "x", "n": 64, "k": 64, "layout": "dense", "scaling": "1d2d",
            "a": "e5m2", "b": "e4m3", "out": "bf16", "sfa": "row", "accumulate": False, "m": [0],
            "group_form": "none", "groups": 1, "alignment": 0,
            "references": [{"by": "x", "us": 1.5, "total": 1}]
        }],
    }
    PLACES = {
        "the document": ((), SCHEMA), "defaults": (("defaults",), SCHEMA["properties"]["defaults"]),
        "problems[0]": (("problems", 0), SCHEMA["$defs"]["problem"]),
        "problems[0].references[0]": (("problems", 0, "references", 0),
                                      SCHEMA["$defs"]["reference"])
    }

    @staticmethod
    def at(document, path):
        for step in path:
            document = document[step]
        return document

    def test_the_sample_has_every_field_of_the_schema_and_both_accept_it(self):
        for path, schema in self.PLACES.values():
            self.assertEqual(set(schema["properties"]), set(self.at(self.SAMPLE, path)))
        self.assertEqual([], problems_of(self.SAMPLE, SCHEMA))
        accepted, result = self.loader_accepts(self.SAMPLE)
        self.assertTrue(accepted, result)

    def test_the_loader_names_the_fields_of_the_schema_as_those_it_accepts(self):
        for place, (path, schema) in self.PLACES.items():
            document = copy.deepcopy(self.SAMPLE)
            self.at(document, path)["no such key"] = 1
            accepted, result = self.loader_accepts(document)
            self.assertFalse(accepted)
            self.assertIn(f'{place}: unknown key "no such key"', result.err)
            listed = result.err.split("accepted are ", 1)[1].splitlines()[0].split(", ")
            self.assertEqual(set(schema["properties"]), set(listed))

    def test_they_agree_about_what_is_required(self):
        for path, schema in self.PLACES.values():
            for key in schema["properties"]:
                document = copy.deepcopy(self.SAMPLE)
                del self.at(document, path)[key]
                self.assert_agreement(document)

    def test_they_agree_about_the_values_of_every_field(self):
        values = [
            0, 1, 2, -1, 7, 2**31 - 512, 2**31 - 511, 2**40, 1.5, True, False, None, "", "x",
            "dense", "grouped_contiguous", "grouped_masked", "grouped_k", "grouped", "1d2d", "1d1d",
            "none", "labels", "ends", "rows", "packed", 3, 1024, 1025, "e4m3", "e5m2", "bf16",
            "f32", "row", "m", "E4M3", "a b", "x" * 96,
            "x" * 97, "x" * 4096, "x" * 4097, [], [1], [1, 1], [-1], ["1"], [2**31],
            list(range(256)),
            list(range(257)), {}, {"a": "e4m3"}, [{}]
        ]
        for path, schema in self.PLACES.values():
            for key in schema["properties"]:
                for value in values:
                    document = copy.deepcopy(self.SAMPLE)
                    self.at(document, path)[key] = value
                    with self.subTest(path=path, key=key, value=str(value)[:30]):
                        self.assert_agreement(document)

    def assert_agreement(self, document):
        found = problems_of(document, SCHEMA)
        accepted, result = self.loader_accepts(document)
        self.assertEqual(not found, accepted, f"schema: {found}\nloader: {result}")


class ShippedFiles(ConfigCase):

    def problems_of_file(self, name):
        """By name, with the file's defaults filled in."""
        document = json.loads((SOURCE_DIR / "configs/shapes" / name).read_text())
        return {
            problem["name"]: {**document["defaults"], **problem} for problem in document["problems"]
        }

    def shapes_of(self, name):
        """(n, k) of the problems of a forward pass."""
        return {
            name: (problem["n"], problem["k"])
            for name, problem in self.problems_of_file(name).items()
            if not name.endswith(GRADIENTS)
        }

    @staticmethod
    def config_of(name):
        """The numbers of the model's configuration that the source quotes."""
        source = json.loads((SOURCE_DIR / "configs/shapes" / name).read_text())["source"]
        return {key: int(value) for key, value in re.findall(r"([a-z_]+) (\d+)", source)}

    def test_there_are_at_least_four_and_each_obeys_the_schema_and_says_its_source(self):
        self.assertGreaterEqual(len(FILES), 4)
        for file in FILES:
            document = json.loads(file.read_text())
            self.assertEqual([], problems_of(document, SCHEMA), file.name)
            self.assertTrue((file.parent / document["$schema"]).resolve().samefile(
                SOURCE_DIR / "configs/schema/shapes.schema.json"))
            self.assertIn("config.json of ", document["source"])
            self.assertTrue(document["model"])

    def test_deepseek_v3_has_the_dense_problems_of_the_benchmark_table(self):
        table = {(512, 32768), (576, 7168), (1536, 24576), (2048, 7168), (2112, 7168), (4096, 7168),
                 (7168, 576), (7168, 2048), (7168, 2112), (7168, 4096), (7168, 16384),
                 (16384, 7168), (24576, 1536), (32768, 512)}
        problems = self.problems_of_file("deepseek-v3.json").values()
        self.assertLessEqual(
            table, {(p["n"], p["k"]) for p in problems
                    if p["layout"] == "dense" and p["scaling"] == "1d2d"})

    def test_every_layer_of_deepseek_v3_has_both_gradients(self):
        problems = self.problems_of_file("deepseek-v3.json")
        layers = {name for name in problems if not name.endswith((*GRADIENTS, ".masked"))}
        self.assertEqual(12, len(layers))
        for gradient in GRADIENTS:
            self.assertEqual({name + gradient for name in layers},
                             {name for name in problems if name.endswith(gradient)})

    def test_the_gradient_for_the_input_of_a_layer_is_the_layer_with_n_and_k_swapped(self):
        for file in FILES:
            problems = self.problems_of_file(file.name)
            for name in (name for name in problems if name.endswith(".dgrad")):
                layer, gradient = problems[name.removesuffix(".dgrad")], problems[name]
                self.assertEqual((layer["k"], layer["n"]), (gradient["n"], gradient["k"]))
                for key in ("layout", "scaling", "out", "groups"):
                    self.assertEqual(layer.get(key), gradient.get(key), name)

    def test_the_gradient_for_a_weight_has_its_size_and_is_added_to_fp32(self):
        for file in FILES:
            problems = self.problems_of_file(file.name)
            for name in (name for name in problems if name.endswith(".wgrad")):
                layer, gradient = problems[name.removesuffix(".wgrad")], problems[name]
                self.assertEqual(([layer["n"]], layer["k"]), (gradient["m"], gradient["n"]))
                self.assertEqual(("f32", True), (gradient["out"], gradient["accumulate"]))
                self.assertEqual(layer.get("groups"), gradient.get("groups"), name)
                if layer["layout"] == "dense":
                    self.assertEqual(("dense", "1d1d"), (gradient["layout"], gradient["scaling"]))
                else:
                    self.assertEqual("grouped_k", gradient["layout"], name)

    def test_the_routed_experts_of_every_mixture_of_experts_are_those_of_one_of_8_gpus(self):
        seen = 0
        for file in FILES:
            config, problems = self.config_of(file.name), self.problems_of_file(file.name)
            experts = config.get("n_routed_experts", config.get("num_experts"))
            grouped = {n: p for n, p in problems.items() if p["layout"] != "dense"}
            self.assertEqual(experts is not None, bool(grouped), file.name)
            if not grouped:
                continue
            seen += 1
            hidden, inter = config["hidden_size"], config["moe_intermediate_size"]
            expected = {}
            for part, shape in (("gate_up_proj", (2 * inter, hidden)), ("down_proj",
                                                                       (hidden, inter))):
                expected[part] = ("grouped_contiguous", shape)
                expected[f"{part}.masked"] = ("grouped_masked", shape)
                expected[f"{part}.dgrad"] = ("grouped_contiguous", shape[::-1])
                expected[f"{part}.wgrad"] = ("grouped_k", (shape[1], 1024))
            self.assertEqual({f"mlp.experts.{part}": value for part, value in expected.items()},
                             {n: (p["layout"], (p["n"], p["k"])) for n, p in grouped.items()})
            self.assertEqual({experts // 8}, {p["groups"] for p in grouped.values()}, file.name)
        self.assertEqual(4, seen)

    def test_the_sizes_follow_from_the_configuration_that_the_source_quotes(self):
        for file in FILES:
            config, shapes = self.config_of(file.name), self.shapes_of(file.name)
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            expected = {}
            if "kv_lora_rank" in config:
                q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
                nope, rope, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config[
                    "v_head_dim"]
                expected = {
                    "self_attn.q_a_proj": (q_rank, hidden),
                    "self_attn.kv_a_proj_with_mqa": (kv_rank + rope, hidden),
                    "self_attn.fused_qkv_a_proj": (q_rank + kv_rank + rope, hidden),
                    "self_attn.q_b_proj": (heads * (nope + rope), q_rank), "self_attn.kv_b_proj":
                        (heads * (nope + v), kv_rank), "self_attn.o_proj": (hidden, heads * v)
                }
            else:
                width = config["head_dim"]
                expected = {
                    "self_attn.qkv_proj": (
                        (heads + 2 * config["num_key_value_heads"]) * width, hidden),
                    "self_attn.o_proj": (hidden, heads * width)
                }
            for prefix, key in (("mlp", "intermediate_size"), ("mlp.shared_experts",
                                                               "moe_intermediate_size")):
                if f"{prefix}.gate_up_proj" in shapes:
                    expected[f"{prefix}.gate_up_proj"] = (2 * config[key], hidden)
                    expected[f"{prefix}.down_proj"] = (hidden, config[key])
            dense = {n: shape for n, shape in shapes.items() if not n.startswith("mlp.experts.")}
            self.assertEqual(expected, dense, file.name)


if __name__ == "__main__":
    sys.exit(harness.run())
